"""Keys that torch and a file system accept, made of what a log calls its columns.

A column may be called anything. What becomes a module of a model or a file of a state goes under
the name's key; all else, tensors of a batch and columns of a file among it, keeps the name.
"""

import hashlib
import re
from collections.abc import Iterable

LONGEST = 100
"""Characters of a key; a file's name may have 255, with what comes before and after the key."""
ESCAPE = "~"
_SAFE = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(r"~([0-9A-F]{2})")

_TORCH = """
    T_destination add_module append apply bfloat16 buffers call_super_init children clear compile
    copy cpu cuda double dump_patches eval extend extra_repr float forward fromkeys get get_buffer
    get_extra_state get_parameter get_submodule half insert ipu items keys load_state_dict modules
    mtia named_buffers named_children named_modules named_parameters parameters pop popitem
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule setdefault share_memory state_dict to to_empty train training type
    update values xpu zero_grad

    _apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl
    _forward_hooks _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks
    _forward_pre_hooks_with_kwargs _get_abs_string_index _get_backward_hooks
    _get_backward_pre_hooks _get_name _is_full_backward_hook _key_to_attr _keys
    _load_from_state_dict _load_state_dict_post_hooks _load_state_dict_pre_hooks
    _maybe_warn_non_full_backward_hook _modules _named_members _non_persistent_buffers_set
    _parameters _register_load_state_dict_pre_hook _register_state_dict_hook
    _replicate_for_data_parallel _save_to_state_dict _slow_forward _state_dict_hooks
    _state_dict_pre_hooks _version _wrapped_call_impl
"""
TORCH = frozenset(_TORCH.split())
"""What torch's containers of modules and parameters have already. Written out, so that the keys of
saved models do not change with torch."""


def key_of(name: str) -> str:
    """The key of a column's name: the name itself where it is safe; no two names have the same.

    Safe are up to :data:`LONGEST` letters without accents, digits, ``_`` and ``-``, unless they
    are a name of torch's. Other bytes of the name (UTF-8) become ``~`` and two digits each.
    """
    key = name
    if not _SAFE.fullmatch(name):
        raw = name.encode("utf-8", "surrogatepass")
        key = _UNSAFE.sub(lambda byte: b"~%02X" % ord(byte[0]), raw).decode() or ESCAPE
    elif name in TORCH or name.startswith("__"):
        key = f"{ESCAPE}{ord(name[0]):02X}{name[1:]}"
    return key if len(key) <= LONGEST else _marked(key, name)


def file_keys(names: Iterable[str]) -> dict[str, str]:
    """The keys of several names, for files in one folder: they differ also where the file system
    takes capitals and small letters for the same."""
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names):
        key = key_of(name)
        keys[name] = key if key.lower() not in taken else _marked(key, name)
        taken.add(keys[name].lower())
    return keys


def _marked(key: str, name: str) -> str:
    """A key with a hash of its name at its end; escapes alone never give two ``~`` in a row."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{key[: LONGEST - len(digest) - 2]}{ESCAPE * 2}{digest}"


def name_of(key: str) -> str:
    """The inverse of :func:`key_of` for names that were not shortened."""
    if key == ESCAPE:
        return ""
    raw = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), key)
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


def check_column(name: str) -> str:
    """The name of a column of a log, if tools can take it.

    Raises:
        ValueError: it is empty, or has a character of code 0.
    """
    if not name or "\0" in name:
        raise ValueError(
            f"{name!r}: a column's name needs one character at least, and none of code 0; rename "
            "it in the log"
        )
    return name
