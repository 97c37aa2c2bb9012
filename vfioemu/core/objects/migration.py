# SPDX-License-Identifier: MIT
"""Migration v2: the state machine as a table, the loop over its arcs, and the data fds.

Kernel: vfio_mig_get_next_state() in drivers/vfio/vfio_main.c for the table and the skipping of states that a device
does not support; the loop is the one that every driver writes around it. What the arcs do is the model's
(`DeviceModel.arc`), and so is what the streams carry.

A session is one stream and the data fd that reads or writes it. It begins with an arc that gives an fd and ends, for
good, when the device leaves the states of that session: the fd then answers ENODEV, however long its owner keeps it.
"""

import errno
from collections.abc import Callable, Generator, Mapping
from typing import Final, Protocol

from vfioemu.core.base.effects import MaybeSteps, Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.core.model.streams import (
    ERROR,
    P2P_STATES,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    RUNNING_STATES,
    SAVING_STATES,
    STOP,
    STOP_COPY,
    ResumingStream,
    SavingStream,
    StateLost,
)
from vfioemu.uapi import constants as c
from vfioemu.uapi.flags import state_name

_S: Final = c.VFIO_MIGRATION_STOP_COPY
_P: Final = c.VFIO_MIGRATION_P2P
_C: Final = c.VFIO_MIGRATION_PRE_COPY

STATE_FLAGS: Final[Mapping[int, int]] = {
    STOP: _S,
    RUNNING: _S,
    STOP_COPY: _S,
    RESUMING: _S,
    RUNNING_P2P: _S | _P,
    PRE_COPY: _S | _C,
    PRE_COPY_P2P: _S | _P | _C,
}
"""Features that a device must support to have a state (state_flags_table); ERROR is never a state to ask for."""

_TARGETS: Final = (STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P)
_NEXT_HOPS: Final = {
    STOP: (STOP, RUNNING_P2P, STOP_COPY, RESUMING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P),
    RUNNING: (RUNNING_P2P, RUNNING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P, PRE_COPY, RUNNING_P2P),
    STOP_COPY: (STOP, STOP, STOP_COPY, STOP, STOP, ERROR, ERROR),
    RESUMING: (STOP, STOP, STOP, RESUMING, STOP, STOP, STOP),
    RUNNING_P2P: (STOP, RUNNING, STOP, STOP, RUNNING_P2P, RUNNING, PRE_COPY_P2P),
    PRE_COPY: (RUNNING, RUNNING, PRE_COPY_P2P, RUNNING, RUNNING, PRE_COPY, PRE_COPY_P2P),
    PRE_COPY_P2P: (RUNNING_P2P, RUNNING_P2P, STOP_COPY, RUNNING_P2P, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P),
}
NEXT_HOP: Final[Mapping[int, Mapping[int, int]]] = {
    current: dict(zip(_TARGETS, hops, strict=True)) for current, hops in _NEXT_HOPS.items()
}
"""vfio_from_fsm_table: the next state on the way from one to another, if the device supports all of them."""


class Session:
    """One stream, and whether it can still be used.

    The lock is held while bytes move, and while the device makes an arc: an arc waits for a read that is under way.
    """

    def __init__(
        self, stream: SavingStream | ResumingStream, device_name: str, *, info_v2: bool = False
    ) -> None:
        self.stream = stream
        self.device_name = device_name
        self.info_v2 = info_v2
        self.ended = False
        self.lock = Lock(f"migration stream of {device_name}")

    def refuse_ended(self) -> None:
        """ENODEV once the device has left the session's states, even if it has done so cleanly."""
        if self.ended:
            raise IoctlError(errno.ENODEV, f"device {self.device_name} has left the states of this fd")


def next_state(flags: int, current: int, target: int) -> int:
    """vfio_mig_get_next_state(): the next hop for a device with these VFIO_MIGRATION_ flags.

    Raises:
        IoctlError: EINVAL when there is no way, or the target is no state of this device.
    """
    for state in (current, target):
        needed = STATE_FLAGS.get(state)
        if needed is None or needed & ~flags:
            arc = f"{state_name(target)} from {state_name(current)}"
            raise IoctlError(errno.EINVAL, f"device_state {arc}: the device has no {state_name(state)}")
    hop = NEXT_HOP[current][target]
    while hop != ERROR and STATE_FLAGS[hop] & ~flags:
        hop = NEXT_HOP[hop][target]
    if hop == ERROR:
        raise IoctlError(
            errno.EINVAL, f"device_state {state_name(target)}: no way from {state_name(current)}"
        )
    return hop


class Migrating(Protocol):
    """The object that makes the arcs: a DeviceModel, whose attributes these are."""

    @property
    def migration_flags(self) -> int:
        """See DeviceModel."""

    @property
    def tells_p2p(self) -> bool:
        """See DeviceModel."""

    def arc(self, current: int, target: int) -> MaybeSteps[SavingStream | ResumingStream | None]:
        """See DeviceModel."""


class Migration:
    """The migration state of one device. Its user holds the device's lock over every call.

    Attributes:
        on_state: gets the old and the new state, whenever it changes.
        on_dma: called when the device may do DMA again.
    """

    def __init__(self, model: Migrating, device_name: str, activity: Lock) -> None:
        self.state: int = RUNNING
        self.session: Session | None = None
        self.on_state: Callable[[int, int], None] | None = None
        self.on_dma: Callable[[], None] | None = None
        self._model = model
        self._device_name = device_name
        self._activity = activity
        self._info_v2 = False

    @property
    def runs(self) -> bool:
        """Tell whether the device is not stopped."""
        return self.state in RUNNING_STATES

    @property
    def may_dma(self) -> bool:
        """Tell whether it may do DMA: one that cannot tell what goes to other devices does none in the P2P states."""
        return self.runs and (self._model.tells_p2p or self.state not in P2P_STATES)

    def set_state(self, target: int) -> Steps[Session | None]:
        """Go to `target`, arc by arc; the session that the last arc has begun, if it did.

        Nothing is checked when the device is there already, as in the drivers' loops. On failure the state is the
        last one that was reached.

        Raises:
            IoctlError: EINVAL, or the model's.
        """
        session = None
        while self.state != target:
            session = yield from self._arc(next_state(self._model.migration_flags, self.state, target))
        return session

    def _arc(self, target: int) -> Steps[Session | None]:
        """Make one arc. No DMA is under way meanwhile, and nobody reads or writes the session's stream."""
        session = self.session
        # The device's activity first, the stream's bytes second, as everywhere: whoever reads or writes a data fd holds the second
        # lock while he waits for his memory, and never asks for the first one.
        yield from locked(self._activity)
        try:
            if session is not None:
                yield from locked(session.lock)
            try:
                result = self._model.arc(self.state, target)
                stream = (yield from result) if isinstance(result, Generator) else result
            except StateLost:
                self._enter(ERROR)
                self._end(session)
                raise
            finally:
                # Before the state is the new one. Nothing is yielded until it is, so whoever was waiting finds the session ended.
                if session is not None:
                    session.lock.release()
            if session is not None and not {self.state, target} <= SAVING_STATES:
                self._end(session)
            self._enter(target)
        finally:
            self._activity.release()
        if stream is None:
            return None
        self.session = Session(stream, self._device_name, info_v2=self._info_v2)
        return self.session

    def set_info_v2(self, on: bool) -> None:
        """Set whether the flags of PRECOPY_INFO are an output: from now on, on the data fd that is open as well.

        Kernel: vfio_device.precopy_info_v2, set by its feature, cleared at the last close.
        """
        self._info_v2 = on
        if self.session is not None:
            self.session.info_v2 = on

    def reset(self) -> Steps[None]:
        """Return to RUNNING from any state, without a session. The caller holds the activity lock."""
        yield from self.end_session()
        self._enter(RUNNING)

    def end_session(self) -> Steps[None]:
        """End the session, in any state. The caller holds the activity lock."""
        session = self.session
        if session is not None:
            # Only to wait for a read or write that is under way. Nothing is yielded from there to the end of the session,
            # so no other gets in between.
            yield from locked(session.lock)
            session.lock.release()
            self._end(session)

    def lose(self) -> Steps[None]:
        """Enter ERROR: what the device has done cannot be taken back. The caller holds the device's lock."""
        # A device in ERROR does no DMA: what is under way has to end first.
        yield from locked(self._activity)
        try:
            yield from self.end_session()
            self._enter(ERROR)
        finally:
            self._activity.release()

    def _enter(self, state: int) -> None:
        could = self.may_dma
        old, self.state = self.state, state
        if self.on_dma is not None and self.may_dma and not could:
            self.on_dma()
        if self.on_state is not None and old != state:
            self.on_state(old, state)

    def _end(self, session: Session | None) -> None:
        if session is not None:
            session.ended = True
        self.session = None
