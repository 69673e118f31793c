"""Results of many images at once: their tables, read by columns; the query line; orders, facets and rows."""
