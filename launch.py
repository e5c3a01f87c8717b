"""The one entry: ``python launch.py`` runs a trial, ``python launch.py -m`` plans and dispatches a study."""

import contextlib
import os
import sys
from collections.abc import Iterator

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from deltalab.errors import DeltalabError
from deltalab.spec import load

FLAGS = {"--yes": "confirmed=true", "--json": "json=true"}
HYDRAS = (HydraException, OmegaConfBaseException)


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Turn a mistake of the user's into one line and exit code 2 (1 for a failure)."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (*HYDRAS, ValueError) as error:
        if not isinstance(error, HYDRAS) and "Config group override" not in str(error):
            raise  # a defect; Hydra answers GROUP=null with a bare ValueError
        print(f"deltalab: {load.explain(error)}", file=sys.stderr)
        sys.exit(2)
    except (DeltalabError, OSError) as error:  # OSError: no right to write, a full disk, a file in a folder's place
        print(f"deltalab: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def run(config: DictConfig) -> None:
    """A trial in this process (with ``-m`` Hydra calls the launcher instead)."""
    from deltalab.dispatch.launch import launch_jobs, single_trial

    overrides = list(HydraConfig.get().overrides.task)
    with mistakes_in_one_line():
        launcher, asked = load.launcher_of(HydraConfig.get().launcher), load.launch_spec(config)
        sys.exit(launch_jobs([overrides], launcher, asked) if asked.study else single_trial(overrides, launcher, asked))


def main() -> None:
    """Register the schemas and hand over to Hydra."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors reach us instead of Hydra's own printer
    sys.argv = [FLAGS.get(argument, argument) for argument in sys.argv]
    load.register()
    with mistakes_in_one_line():
        load.refuse_other_launchers(sys.argv[1:])
        run()


if __name__ == "__main__":
    main()
