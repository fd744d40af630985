"""Recordings in, batches out: sources, random crops, augmentation; `module` joins them for the trainer."""
