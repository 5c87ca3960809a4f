"""Who runs the cells of a study: this process (local.py), processes of one run (processes.py), a Ray cluster (ray.py).

A cell is the unit: whoever runs it gets the checked StudyContext, writes the cell's files, and tells what happens as
events (events.py), which the study's own process replays. So progress, tracking and tables have one writer.
"""
