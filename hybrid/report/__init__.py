"""One self-contained HTML page about one or several runs.

The entry point is `page.write_report`. Layers, lower ones first: `markup` (escaping), `formatting`, `axes`, `charts`
and `line_charts` (SVG); `grades_file`, `sources`, `unfinished` and `timing` (reading); `section` (the interface) and
`curves`; `output_texts`, `question_rows`, `sections`, `articles`, `summary`, `compare`, `navigation` and `provenance`
(the parts); `page`.
"""
