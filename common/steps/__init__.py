"""The steps of the study, a file each."""
