"""Results of many images at a time: their tables, by columns; the query line; orders, facets and rows."""
