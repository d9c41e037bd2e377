"""What became of runs, to be looked at: their folders as data, figures, and one page for one or several of them.

`runs` reads what a training has left behind (complete or not), `figures` draws it, `svg` makes a figure part of a page
that is read in light and in dark, `html` fills the templates. `page` is about trainings, `scores_page` about a run
of the tasks; `folder` writes what a finished training leaves beside them.
"""
