"All kinds of faults, in the order of the table."
from . import damage, images, inputs, native, processes, threads

KINDS = [*damage.KINDS, *processes.KINDS, *inputs.KINDS, *images.KINDS, *native.KINDS, *threads.KINDS]
