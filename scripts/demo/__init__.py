"""The demo: the main job from a project to a watched, metered run, on real parts."""
