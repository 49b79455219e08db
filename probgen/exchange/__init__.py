"""Networks in the files and objects of other packages: BIF, XMLBIF, networkx, pgmpy."""
