"""The main job from one end to the other, on real text that every machine has."""
