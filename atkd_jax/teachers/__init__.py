"""Where the teacher's signal comes from."""

from atkd_jax.teachers.cached import CachedTeacher, cached_signals, cached_teacher, read_head
from atkd_jax.teachers.live import TeacherSignal, batch_log_probs, teacher_signal
from atkd_jax.teachers.loading import LoadedTeacher, load_teacher
from atkd_jax.teachers.quantized import Quantization, quantize_teacher

__all__ = [
    "CachedTeacher",
    "LoadedTeacher",
    "Quantization",
    "TeacherSignal",
    "batch_log_probs",
    "cached_signals",
    "cached_teacher",
    "load_teacher",
    "quantize_teacher",
    "read_head",
    "teacher_signal",
]
