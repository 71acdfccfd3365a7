#!/bin/bash
#SBATCH --requeue --open-mode=append --output={folder}/{log}.log{flags}
# At the end of its time Slurm sends SIGTERM to all processes of a job. The shell waits, while the
# script saves its state.
trap : TERM
cd {here}
{command}
