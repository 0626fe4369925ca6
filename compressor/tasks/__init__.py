"""What a network is for, a task a file: its metric, and what to show of single samples.

``evaluate(session, split, batch, progress)`` gives the metric and one outcome for each sample (a label, dB …);
``samples(split, classes, outcomes, sessions, seed)`` what a report shows, in the form that its ``samples`` has.
"""
