"""``report.json`` is the truth; the terminal, the HTML page, JUnit and Markdown are views of it."""
