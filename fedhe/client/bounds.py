"""What a site does not do whatever its server says: go back to an earlier model, train beyond the signed rounds."""

from fedhe.client.work import NotNowError, Work
from fedhe.errors import PolicyError
from fedhe.wire import federation


def check_bounds(work: Work, instruction: federation.Instruction) -> None:
    """Makes sure that an instruction is one that an honest server could give.

    Raises:
        NotNowError: it is about a version before the one that the server has confirmed: the server was set back, as by
            an old backup, and following it would lead the rounds a second way from an earlier model.
        PolicyError: it is to train a round beyond those of the job that was signed and approved; a server may ask for
            fewer.
    """
    held, asked = work.record.acknowledged, _version_of(instruction)
    if asked is not None and asked < held:
        _set_back(work, instruction.id, asked, held)
    if instruction.WhichOneof("work") == "train":
        signed = work.job().federation.rounds
        if instruction.train.round > signed:
            raise PolicyError(
                f"round {instruction.train.round}: the signed job has {signed} rounds", "for more, submit another job"
            )


def _set_back(work: Work, instruction: str, asked: int, held: int) -> None:
    message = (
        f"the server asks for work on model version {asked}, this site holds version {held}, as the server had "
        "confirmed: it was set back, as by an old backup; nothing is sent"
    )
    if work.shown.message.partition(";")[0] != message.partition(";")[0]:  # once, not at each try
        work.audit("server-set-back", instruction=instruction, held=held, asked=asked)
    raise NotNowError(message, "tell the admin of the server; the model here stays as it is")


def _version_of(instruction: federation.Instruction) -> int | None:
    """The version of the model that an instruction is about: that it begins with, loads, seals or arrives at."""
    match instruction.WhichOneof("work"):
        case "train":
            return instruction.train.round - 1
        case "upload":
            return instruction.upload.roster.round - 1
        case "apply":
            return instruction.apply.roster.round
        case "load_checkpoint":
            return instruction.load_checkpoint.version
        case "seal":
            return instruction.seal.version
        case "seed":
            return 0
    return None
