"""Charts as static SVG in the page's own colours, light and dark, one chart in a file.

All are 360 units wide, a phone's width, so that their text is readable there; wider pages lay them out in columns.
A mark, a dash or a word repeats what a colour means.
"""
