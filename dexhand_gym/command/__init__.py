"""An installed package has configs.py and train_ppo.py in here; the repository has them in its root (see setup.cfg)."""
