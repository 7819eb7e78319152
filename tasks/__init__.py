"""Training, attacks, defenses and scoring: tensors and specs in, tensors and facts out.

Nothing here knows of Ray, MLflow, Arrow, files or the command line. Importing a
spec does not import torch; only running it does.
"""
