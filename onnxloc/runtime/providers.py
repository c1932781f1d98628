"""What runs graphs: the providers of onnxruntime, and how a run uses one."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from onnxloc.errors import OptionError, RuntimeMissingError
from onnxloc.registry import did_you_mean, one_line

__all__ = ["PROVIDERS", "Provider", "RuntimeOptions", "import_onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A provider that onnxloc knows.

    Attributes
    ----------
    ort_name : str
        Its name in onnxruntime.
    extra : str
        The extra of onnxloc that installs it.
    package : str
        The Python package that it comes in.
    precisions : tuple of str
        What float32 graphs may be computed in, the default first.
    own_memory : bool
        Whether its tensors lie in a memory that numpy cannot see.
    """

    ort_name: str
    extra: str
    package: str
    precisions: tuple[str, ...] = ("fp32",)
    own_memory: bool = False


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        "cpu": Provider(ort_name="CPUExecutionProvider", extra="cpu", package="onnxruntime"),
        "cuda": Provider(
            ort_name="CUDAExecutionProvider",
            extra="gpu",
            package="onnxruntime-gpu",
            precisions=("fp32", "tf32"),
            own_memory=True,
        ),
        "openvino": Provider(
            ort_name="OpenVINOExecutionProvider",
            extra="openvino",
            package="onnxruntime-ep-openvino",
            precisions=("fp32", "bf16", "fp16"),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How graphs are run.

    Attributes
    ----------
    provider : str
        "cpu", "cuda" or "openvino".
    threads : int
        Threads within an operator; 0 leaves the choice to the provider (onnxruntime takes one for
        each core).
    precision : str
        What the provider computes float32 graphs in: "fp32", with cuda also "tf32", with openvino
        also "bf16" and "fp16". A graph whose weights are half precision stays as it is.
    io_binding : bool or None
        Whether inputs and results are bound to the provider's own memory; None for wherever it has
        one.
    """

    provider: str = "cpu"
    threads: int = 0
    precision: str = "fp32"
    io_binding: bool | None = None

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            hint = did_you_mean(self.provider, PROVIDERS)
            known = ", ".join(PROVIDERS)
            raise OptionError(f"there is no provider {self.provider!r}{hint} (known: {known})")
        if self.threads < 0:
            raise OptionError("the number of threads must be 0 (all cores) or more")
        has = PROVIDERS[self.provider].precisions
        if self.precision not in has:
            raise OptionError(
                f"the provider {self.provider} computes in {' or '.join(has)}, not "
                f"{self.precision!r:.20}"
            )

    @property
    def binds(self) -> bool:
        """Whether inputs and results are bound to the provider's own memory."""
        if self.io_binding is None:
            return PROVIDERS[self.provider].own_memory
        return self.io_binding

    @property
    def is_reference(self) -> bool:
        """Whether this is what others are compared with: float32 on the CPU, by onnxruntime."""
        return self.provider == "cpu" and self.precision == "fp32"


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
