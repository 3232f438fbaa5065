"""One self-contained HTML page about one or several graded runs.

`page.write_report` is the way in. Floors inside, lower ones first: `markup` (escaping), `grids` and `charts` (SVG),
`grades_file` and `sources` (reading), `summary`, `compare`, `tasks`, `answers` and `provenance` (the parts), `page`.
"""
