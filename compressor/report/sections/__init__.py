"""The sections of a page, one in a file: a function from a report to a `Section`, or to None if there is none to show.

Sections make text and drawings; the template only lays them out. Each section bounds its own size.
"""
