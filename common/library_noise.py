"""What libraries print that a user can do nothing about, nor has to: it is left out."""

import logging
import warnings

LOGGED = {
    "DeepSpeed": "Setting accelerator to CPU",  # Accelerate looks for DeepSpeed in runs that do not use it
    "bitsandbytes.backends.cpu.ops": "from kernels-community",  # a faster kernel for 4-bit inference on CPUs
}
"""Logger → what its message holds."""
WARNED = ("`broadcast_buffers` is deprecated",)
"""Beginnings of FutureWarnings about arguments that Accelerate passes on."""


class _Without(logging.Filter):
    """Leaves out messages that hold a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is shown."""
        return self.text not in record.getMessage()


def leave_out_noise() -> None:
    """Leave it out from now on; to be called before the libraries are imported. Everything else is shown as before."""
    for name, text in LOGGED.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Without) for each in logger.filters):
            logger.addFilter(_Without(text))
    for beginning in WARNED:
        warnings.filterwarnings("ignore", message=beginning, category=FutureWarning)
