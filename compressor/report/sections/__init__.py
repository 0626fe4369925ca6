"""What a page says, a section a file: a function from a report to a `Section`, or to None where there is none to show.

They make words and drawings; the template only lays them out. Whatever a report holds, a section stays small.
"""
