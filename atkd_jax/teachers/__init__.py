"""Where the teacher's signal comes from."""

from atkd_jax.teachers.live import TeacherSignal, teacher_signal
from atkd_jax.teachers.loading import LoadedTeacher, load_teacher

__all__ = ["LoadedTeacher", "TeacherSignal", "load_teacher", "teacher_signal"]
