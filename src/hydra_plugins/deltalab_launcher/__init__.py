"""The Hydra launcher that plans a study and dispatches its trials through submitit."""
