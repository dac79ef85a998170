"""What can be found wrong with a start: the closed set, its sentences and advice. PURE."""

from dataclasses import dataclass
from enum import StrEnum

from inference.provisioners.base import Reason


def gettext_noop(message: str) -> str:
    """Marks a text for translators; pages translate it when they show it."""
    return message


class Code(StrEnum):
    """Finer than the provisioners' Reason: one for each thing that helps."""

    GPU_MEMORY = "gpu_memory"
    GPU_BUSY = "gpu_busy"
    HOST_MEMORY = "host_memory"
    KV_NOTHING = "kv_nothing"
    KV_SPACE = "kv_space"
    OWN_CONTEXT = "own_context"
    GATED = "gated"
    NO_ACCESS = "no_access"
    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    NEEDS_CODE = "needs_code"
    UNSAFE_WEIGHTS = "unsafe_weights"
    DAMAGED_WEIGHTS = "damaged_weights"
    NO_TOKENIZER = "no_tokenizer"
    NO_CHAT_TEMPLATE = "no_chat_template"
    HEADS = "heads"
    TOO_MANY_GPUS = "too_many_gpus"
    QUANTIZATION = "quantization"
    NUMBER_FORMAT = "number_format"
    OTHER_VOCABULARY = "other_vocabulary"
    BAD_SETTING = "bad_setting"
    DISK = "disk"
    DOWNLOAD = "download"
    DRIVER = "driver"
    ENVIRONMENT = "environment"
    NO_ROOM = "no_room"
    QUOTA = "quota"
    LOAD_TIMEOUT = "load_timeout"
    TIME_LIMIT = "time_limit"
    KILLED = "killed"
    PROCESSOR = "processor"
    SIGNAL = "signal"
    LOST = "lost"
    NODE_LOST = "node_lost"
    ENDED = "ended"
    EXITED = "exited"


@dataclass(frozen=True)
class Finding:
    """What a code means. In the sentence, `%(name)s` stands for a fact from the log."""

    reason: Reason
    sentence: str
    advice: str = ""


_LOG = gettext_noop("The log of the attempt has the engine's last words.")
_OPERATOR = gettext_noop("Ask the operator to run “modelport doctor”, then start it again.")
_OTHER_MODEL = gettext_noop("Choose another model, or another edition of this one.")

FINDINGS: dict[Code, Finding] = {
    Code.GPU_MEMORY: Finding(
        Reason.OUT_OF_MEMORY,
        gettext_noop("The model does not fit into the GPU's memory."),
        gettext_noop("Use more GPUs, a shorter context, or a smaller or quantized model."),
    ),
    Code.GPU_BUSY: Finding(
        Reason.OUT_OF_MEMORY,
        gettext_noop("Something else holds part of the GPU's memory."),
        gettext_noop("Let the engine take a smaller share, or try again when the GPU is free."),
    ),
    Code.HOST_MEMORY: Finding(
        Reason.OUT_OF_MEMORY,
        gettext_noop("The machine ran out of memory while the model was loading."),
        gettext_noop("Set less aside for conversations, or choose a smaller model."),
    ),
    Code.KV_NOTHING: Finding(
        Reason.OUT_OF_MEMORY,
        gettext_noop("The model fits, but leaves no GPU memory for conversations."),
        gettext_noop("Let the engine take a larger share, or use more GPUs."),
    ),
    Code.KV_SPACE: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop(
            "The context length needs more memory for conversations than there is. Choose a "
            "shorter one."
        ),
        gettext_noop("A context may be as long as one request fits into that memory."),
    ),
    Code.OWN_CONTEXT: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The context length is greater than the model's own."),
        gettext_noop("Choose at most the length that the model was made for."),
    ),
    Code.GATED: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The model is gated: its makers let only those have it who accept a licence."),
        gettext_noop(
            "Accept the licence on the hub, and give the organization a hub token that may read it."
        ),
    ),
    Code.NO_ACCESS: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The hub has no such model, or the hub token may not see it."),
        gettext_noop("Check the hub token, or choose another model."),
    ),
    Code.UNKNOWN_ARCHITECTURE: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The engine does not know this model's architecture."),
        gettext_noop("A newer engine may know it; until then, choose another model."),
    ),
    Code.NEEDS_CODE: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The model wants to run code of its own, which is refused here."),
        _OTHER_MODEL,
    ),
    Code.UNSAFE_WEIGHTS: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The model has no weights in a format that is served here."),
        _OTHER_MODEL,
    ),
    Code.DAMAGED_WEIGHTS: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The model's files are incomplete, or do not belong together."),
        gettext_noop(
            "Where its makers published it so, choose another model; else have its copy on the "
            "machine removed, so that it is downloaded again."
        ),
    ),
    Code.NO_TOKENIZER: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The model has no tokenizer that the engine can read."),
        _OTHER_MODEL,
    ),
    Code.NO_CHAT_TEMPLATE: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The model has no chat template, so it continues texts and cannot chat."),
        gettext_noop("For conversations choose its instruction-tuned edition."),
    ),
    Code.HEADS: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The model cannot be divided among so many GPUs."),
        gettext_noop("Its attention heads must be divisible by the number of GPUs."),
    ),
    Code.TOO_MANY_GPUS: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("It asks for more GPUs than one machine has."),
        gettext_noop("Choose fewer GPUs."),
    ),
    Code.QUANTIZATION: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The engine cannot compute with this quantization on this hardware."),
        _OTHER_MODEL,
    ),
    Code.NUMBER_FORMAT: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The engine cannot compute this model in that number format here."),
        gettext_noop("Choose another number format."),
    ),
    Code.OTHER_VOCABULARY: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The draft model has another vocabulary than the model that it guesses for."),
        gettext_noop("Choose a smaller model of the same family to guess, or do without."),
    ),
    Code.BAD_SETTING: Finding(
        Reason.BAD_ARGUMENTS,
        gettext_noop("The engine does not accept one of the settings."),
        _LOG,
    ),
    Code.DISK: Finding(
        Reason.INSUFFICIENT_CAPACITY,
        gettext_noop("The disk is full."),
        gettext_noop("Ask the operator to make room on the machine's disk."),
    ),
    Code.DOWNLOAD: Finding(
        Reason.BACKEND_UNREACHABLE,
        gettext_noop("The download was interrupted: the hub does not answer."),
        gettext_noop("It goes on where it stopped."),
    ),
    Code.DRIVER: Finding(
        Reason.IMAGE_ERROR,
        gettext_noop("The machine's NVIDIA driver is missing, or too old for the engine."),
        gettext_noop("Ask the operator to bring the driver up to date."),
    ),
    Code.ENVIRONMENT: Finding(
        Reason.IMAGE_ERROR,
        gettext_noop("The engine's environment is damaged. Install the engine again."),
        _OPERATOR,
    ),
    Code.NO_ROOM: Finding(
        Reason.INSUFFICIENT_CAPACITY,
        gettext_noop("There is no room for it now."),
        gettext_noop("Stop another instance, or choose a smaller model or a shorter context."),
    ),
    Code.QUOTA: Finding(
        Reason.QUOTA_EXCEEDED,
        gettext_noop("The organization's quota is used up."),
        gettext_noop("Ask the operator for a larger quota."),
    ),
    Code.LOAD_TIMEOUT: Finding(
        Reason.LOAD_TIMEOUT,
        gettext_noop("The engine was not ready in time and has been stopped."),
        gettext_noop("The machine may be busy. Start the instance again in a while."),
    ),
    Code.TIME_LIMIT: Finding(
        Reason.TIME_LIMIT,
        gettext_noop("The cluster's time limit was reached."),
        gettext_noop("Start it again, or ask for a longer time limit."),
    ),
    Code.KILLED: Finding(
        Reason.CRASHED,
        gettext_noop("The engine was killed. Most often the system does so when memory runs out."),
        gettext_noop("Set less aside for conversations, or choose a smaller model."),
    ),
    Code.PROCESSOR: Finding(
        Reason.IMAGE_ERROR,
        gettext_noop(
            "The machine's processor lacks instructions that the engine needs, such as AVX2."
        ),
        gettext_noop("Choose another engine, or ask the operator for a newer machine."),
    ),
    Code.SIGNAL: Finding(
        Reason.CRASHED, gettext_noop("The engine was ended by signal %(signal)s."), _LOG
    ),
    Code.LOST: Finding(
        Reason.CRASHED, gettext_noop("The engine is gone, and nobody saw how it ended."), _LOG
    ),
    Code.NODE_LOST: Finding(
        Reason.NODE_LOST,
        gettext_noop("The machine with the engine is gone."),
        gettext_noop("It starts again by itself."),
    ),
    Code.ENDED: Finding(Reason.CANCELLED, gettext_noop("It was ended on purpose.")),
    Code.EXITED: Finding(
        Reason.CRASHED, gettext_noop("The engine ended by itself with code %(exit_code)s."), _LOG
    ),
}
