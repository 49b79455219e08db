"""The ArviZ object of the installed version. The one module that knows the versions.

ArviZ 0.2x takes a keyword for each group and gives an ``InferenceData``; ArviZ 1.x takes one
nested dict and gives an ``xarray.DataTree``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from probgen.diagnostics.arviz.groups import Groups

__all__ = ["build", "write"]


def build(groups: Groups) -> Any:
    """The ArviZ object of the installed version."""
    import arviz

    from_dict: Any = arviz.from_dict
    shared: Mapping[str, Any] = {"coords": groups.coords, "dims": groups.dims}
    # by version: 0.x takes the nested form without a word, and builds a useless object
    if int(arviz.__version__.split(".")[0]) >= 1:
        found = from_dict(groups.data, **shared)
    else:
        found = from_dict(**groups.data, **shared)
    for key, attrs in groups.attrs.items():
        group, variable = key if isinstance(key, tuple) else (key, None)
        place = found if not group else found[group] if group in groups.data else None
        if place is not None:
            (place if variable is None else place[variable]).attrs.update(attrs)
    return found


def write(data: Any, path: str | os.PathLike[str]) -> None:
    """Write an ArviZ object of either version to a netCDF-4 file, through h5netcdf."""
    data.to_netcdf(os.fspath(path), engine="h5netcdf")
