"""Training: optimizer, schedules, strategies, callbacks, resuming, fit."""
