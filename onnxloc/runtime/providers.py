"""Which onnxruntime there is, and how a run uses it."""

from dataclasses import dataclass
from types import ModuleType

from onnxloc.errors import OptionError, RuntimeMissingError
from onnxloc.registry import did_you_mean, one_line

__all__ = ["RuntimeOptions", "import_onnxruntime", "provider_name"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
EXTRAS = {"cpu": "cpu", "cuda": "gpu"}


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How graphs are run.

    Attributes
    ----------
    provider : str
        "cpu" or "cuda".
    threads : int
        Threads within an operator; 0 leaves the choice to onnxruntime (one for each core).
    """

    provider: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            hint = did_you_mean(self.provider, PROVIDERS)
            known = ", ".join(PROVIDERS)
            raise OptionError(f"there is no provider {self.provider!r}{hint} (known: {known})")
        if self.threads < 0:
            raise OptionError("the number of threads must be 0 (all cores) or more")


def import_onnxruntime() -> ModuleType:
    """The onnxruntime module.

    Raises
    ------
    RuntimeMissingError
        If it is not installed; the message says which extra to install.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise RuntimeMissingError(
            "onnxruntime is not installed; run pip install 'onnxloc[cpu]', or 'onnxloc[gpu]' for "
            "an NVIDIA GPU"
        ) from error
    except ImportError as error:
        raise RuntimeMissingError(
            f"the installed onnxruntime cannot be loaded ({one_line(error)}); reinstall it with "
            "pip install --force-reinstall 'onnxloc[cpu]', or 'onnxloc[gpu]'"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise RuntimeMissingError(
            "the installed onnxruntime is incomplete; reinstall it with "
            "pip install --force-reinstall 'onnxloc[cpu]', or 'onnxloc[gpu]'"
        )
    return onnxruntime  # type: ignore[no-any-return]


def provider_name(options: RuntimeOptions) -> str:
    """Onnxruntime's name of the provider that was asked for.

    Raises
    ------
    RuntimeMissingError
        If the installed onnxruntime does not have it.
    """
    name = PROVIDERS[options.provider]
    ort = import_onnxruntime()
    available = ort.get_available_providers()
    if name not in available:
        raise RuntimeMissingError(
            f"the installed onnxruntime has no {options.provider} provider; run "
            f"pip install 'onnxloc[{EXTRAS[options.provider]}]' in an environment without the other"
        )
    if options.provider == "cuda":
        # The CUDA libraries come as Python packages, where the system's loader does not look.
        ort.preload_dlls()
    return name
