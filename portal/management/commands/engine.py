from argparse import ArgumentParser

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.engines import ENGINES
from inference.engines.base import Variant, variant_of
from inference.node import environments, hardware
from inference.node.environments import InstallProblem, InstallProgress


class Command(BaseCommand):
    help = "Install an engine into an environment of its own: modelport engine install vllm"
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["install"])
        parser.add_argument("name", choices=sorted(ENGINES))
        parser.add_argument("--variant", choices=["cpu", "cuda"], help="default: what is here")

    def handle(self, *, action: str, name: str, variant: Variant | None, **options: object) -> None:
        env = settings.ENV
        engine = ENGINES[name]
        if variant and variant not in engine.variants:
            raise CommandError(f"{engine.title} can be installed for {', '.join(engine.variants)}.")
        recipe = engine.recipe(variant or variant_of(engine, hardware.variant_here()))
        try:
            python = environments.install(
                recipe, env.home, self._report, indexes={"torch_cpu": env.torch_cpu_index}
            )
        except InstallProblem as problem:
            raise CommandError(str(problem)) from problem
        self.stdout.write(f"{name} {recipe.version} is installed: {python}")

    said = ""

    def _report(self, progress: InstallProgress) -> None:
        """A line whenever the sentence changes; on a terminal the count too."""
        count = f" ({progress.done} of {progress.total} packages)" if progress.total else ""
        line = progress.message + (count if self.stdout.isatty() else "")
        if line != self.said:
            self.said = line
            self.stdout.write(line)
