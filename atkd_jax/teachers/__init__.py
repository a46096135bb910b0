"""Where the teacher's signal comes from."""

from atkd_jax.teachers.live import TeacherSignal, teacher_signal
from atkd_jax.teachers.loading import LoadedTeacher, load_teacher
from atkd_jax.teachers.quantized import Quantization, quantize_teacher

__all__ = ["LoadedTeacher", "Quantization", "TeacherSignal", "load_teacher", "quantize_teacher", "teacher_signal"]
