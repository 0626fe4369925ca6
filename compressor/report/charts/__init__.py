"""Charts as SVG in a page's own colours, for light and dark: static, no script, nothing fetched. One a file.

All are 360 units wide, which is a phone's width, so that their words can be read there; wider pages lay them out
in columns. What a colour says, a mark, a dash or a word says too.
"""
