"""What the trainings of the generator and of encoders share.

The tables of configuration files (`configuration`), the `schedule` of the learning rate, random `erasing`, batches made
ahead (`prefetching`), and what a run leaves in its folder: a lock (`folders`), `checkpoints`, and `reports`.
"""
