"""Emulates NVIDIA cards on a machine without one, in every Python process that starts with it on PYTHONPATH.

The Python of torch.cuda, accelerate, transformers and bitsandbytes runs as it is: only the functions of
torch._C and of pynvml under it are replaced. What torch is asked to place on ``cuda`` is placed on the CPU.
A process that makes a CUDA context writes a line to the log, and its forked children are refused one, as
torch refuses them. tests/emulated.py says how a test describes the machine (variable EMULATED_CUDA).
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
from pathlib import Path

MACHINE = json.loads(os.environ.get("EMULATED_CUDA", "null"))
GIB = 2**30
CONTEXT_BYTES = GIB // 4


def find_visible():
    """The cards that CUDA_VISIBLE_DEVICES leaves, in its order; without a word the largest is the first."""
    cards, listed = list(MACHINE["cards"]), os.environ.get("CUDA_VISIBLE_DEVICES")
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        cards.sort(key=lambda card: -card["memory_gib"])
    if listed is None:
        return cards
    parts = [(str(place), part) for place, card in enumerate(cards) for part in card["instances"] or [card]]
    found = []
    for word in listed.split(","):
        match = [part for place, part in parts if word == place or (word and part["uuid"].startswith(word))]
        if not match:
            break
        found += match[:1]
    return found


def log(event):
    """Adds a line about this process to the log."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with Path(MACHINE["log"]).open("a") as file:
        row = {"event": event, "pid": os.getpid(), "parent": os.getppid(), "visible": visible}
        row["cards"] = [card["uuid"] for card in find_visible()]
        file.write(json.dumps({**row, "command": sys.argv}) + "\n")


def find_contexts(card):
    """The living processes that have made a context on the card."""
    path = Path(MACHINE["log"])
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    made = {row["pid"] for row in rows if row["event"] == "context" and row["cards"][0] == card["uuid"]}
    return [pid for pid in sorted(made) if Path(f"/proc/{pid}").exists()]


def measure_resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def emulate_torch(torch):
    """Replaces what of torch._C a CPU build lacks."""
    state = {"touched": False, "bad_fork": False, "base": 0, "peak": 0, "limit": None}

    is_old = MACHINE["driver_cuda"] < 1000 * float(MACHINE["torch_cuda"])

    def touch():
        if not state["touched"]:
            state["touched"] = True
            os.register_at_fork(after_in_child=lambda: state.update(bad_fork=True))

    def count():
        touch()
        return 0 if is_old else len(find_visible())

    def init():
        if state["bad_fork"]:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        touch()
        if is_old:
            raise RuntimeError(
                "The NVIDIA driver on your system is too old (found version "
                f"{MACHINE['driver_cuda']}). Please update your GPU driver"
            )
        if not find_visible():
            raise RuntimeError("No CUDA GPUs are available")
        if fault := find_visible()[0]["fault"]:
            raise RuntimeError(fault)
        log("context")
        state["base"] = measure_resident()

    def read_used():
        used = max(0, measure_resident() - state["base"])
        state["peak"] = max(state["peak"], used)
        return used

    def read_stats(device):
        used = read_used()
        size = {"all": {"current": used, "peak": state["peak"], "allocated": 0, "freed": 0}}
        return {"allocated_bytes": size, "reserved_bytes": size, "active_bytes": size, "num_ooms": 0}

    def limit(fraction, device):
        state["limit"] = fraction * find_visible()[device]["memory_gib"] * GIB
        log(f"limit {fraction:.6f} of card {device}")

    class Properties:
        def __init__(self, card):
            self.name, self.uuid = card["name"], card["uuid"].removeprefix("GPU-")
            self.total_memory = int(card["memory_gib"] * GIB)
            self.major, self.minor, self.multi_processor_count = 8, 9, 128
            self.is_integrated = self.is_multi_gpu_board = 0

    class Runtime:
        class cudaError:
            success = 0

        @staticmethod
        def cudaMemGetInfo(device):
            card = find_visible()[device]
            total = int(card["memory_gib"] * GIB)
            return total - int(card["used_gib"] * GIB) - read_used(), total

    class Generators:
        """torch.cuda.default_generators: one of the CPU for each card."""

        def __getitem__(self, place):
            return torch.default_generator

        def __len__(self):
            return len(find_visible())

    nothing = lambda *arguments: None  # noqa: E731
    replaced = {
        "_cuda_getDeviceCount": count,
        "_cuda_init": init,
        "_cuda_isInBadFork": lambda: state["bad_fork"],
        "_cuda_getDevice": lambda: 0,
        "_cuda_exchangeDevice": lambda device: 0,
        "_cuda_maybeExchangeDevice": lambda device: 0,
        "_cuda_setDevice": nothing,
        "_cuda_getArchFlags": lambda: "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120",
        "_cuda_synchronize": nothing,
        "_cuda_emptyCache": nothing,
        "_cuda_setMemoryFraction": limit,
        "_cuda_memoryStats": read_stats,
        "_cuda_memoryStatsAsNestedDict": read_stats,
        "_cuda_resetPeakMemoryStats": lambda device: state.update(peak=read_used()),
        "_cuda_resetAccumulatedMemoryStats": nothing,
        "_cuda_getCurrentRawStream": lambda device: 0,
        "_cuda_getCurrentStream": lambda device: (0, device, 1),
        "_cuda_getDefaultStream": lambda device: (0, device, 1),
    }
    for name, function in replaced.items():
        setattr(torch._C, name, function)
    cuda = torch.cuda
    cuda._get_device_properties = lambda device: Properties(find_visible()[device])
    cuda._is_in_bad_fork = lambda: state["bad_fork"]
    cuda.cudart, cuda._cudart = lambda: Runtime, Runtime
    cuda.default_generators = Generators()
    cuda._is_compiled = lambda: True
    cuda._exchange_device = cuda._maybe_exchange_device = lambda device: 0
    cuda._raw_device_count_nvml = lambda: len(MACHINE["cards"]) if MACHINE["nvml"] else -1
    cuda._raw_device_uuid_nvml = lambda: [card["uuid"] for card in MACHINE["cards"]]
    torch.version.cuda = MACHINE["torch_cuda"]
    place_on_cpu(torch, state, read_used)


def place_on_cpu(torch, state, read_used):
    """Has every function of torch that is given the device ``cuda`` use the CPU; a limit is kept to."""
    from torch.overrides import TorchFunctionMode

    def is_cuda(value):
        if isinstance(value, torch.device):
            return value.type == "cuda"
        return isinstance(value, str) and value.partition(":")[0] == "cuda"

    def move(value):
        if is_cuda(value):
            cuda = torch.cuda
            cuda._lazy_init()
            return torch.device("cpu")
        return value

    class OnCpu(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            name = getattr(function, "__name__", "")
            if name == "cuda":
                torch.cuda._lazy_init()
                return args[0]
            if function is torch.device or name in ("__get__", "__set__", "device"):
                return function(*args, **(kwargs or {}))
            if state["limit"] is not None and read_used() > state["limit"]:
                raise torch.OutOfMemoryError("CUDA out of memory. (emulated)")
            moved = {key: move(value) for key, value in (kwargs or {}).items()}
            moved.pop("pin_memory", None)  # safetensors asks for it on the way to a card
            return function(*map(move, args), **moved)

    OnCpu().__enter__()
    autocast = torch.amp.autocast_mode.autocast
    original = autocast.__init__

    def start(self, device_type, *args, **kwargs):
        original(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    autocast.__init__ = start


def emulate_nvml(nvml):
    """Replaces what of pynvml needs a driver."""
    cards = MACHINE["cards"]
    handles = {(place, None): card for place, card in enumerate(cards)}
    handles |= {
        (place, n): one for place, card in enumerate(cards) for n, one in enumerate(card["instances"])
    }

    class Some:
        def __init__(self, **values):
            self.__dict__.update(values)

    def start():
        if not MACHINE["nvml"]:
            raise nvml.NVMLError(nvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def find(uuid):
        uuid = uuid.decode() if isinstance(uuid, bytes) else uuid
        for handle, card in handles.items():
            if card["uuid"] == uuid:
                return handle
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)

    def measure(handle, version=None):
        total, used = (int(handles[handle][name] * GIB) for name in ("memory_gib", "used_gib"))
        return Some(total=total, used=used, free=total - used, reserved=0)

    def list_processes(handle):
        card = handles[handle]
        held = {one["pid"]: int(one["gib"] * GIB) for one in card["held_by"]}
        held |= dict.fromkeys(find_contexts(card), CONTEXT_BYTES)
        return [Some(pid=pid, usedGpuMemory=size) for pid, size in held.items()]

    def read_mig_mode(handle):
        return [1, 1] if cards[handle[0]]["instances"] else refuse()

    def find_instance(handle, place):
        if (handle[0], place) not in handles:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
        return (handle[0], place)

    def refuse(*_):
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)

    replaced = {
        "nvmlInit": start,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda place: (place, None),
        "nvmlDeviceGetHandleByUUID": find,
        "nvmlDeviceGetName": lambda handle: handles[handle]["name"],
        "nvmlDeviceGetUUID": lambda handle: handles[handle]["uuid"],
        "nvmlDeviceGetIndex": lambda handle: handle[0],
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 9),
        "nvmlDeviceGetMemoryInfo": measure,
        "nvmlDeviceGetComputeRunningProcesses": list_processes,
        "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: [],
        "nvmlDeviceGetTotalEnergyConsumption": refuse,
        "nvmlDeviceGetMigMode": read_mig_mode,
        "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": find_instance,
        "nvmlSystemGetDriverVersion": lambda: MACHINE["driver"],
        "nvmlSystemGetCudaDriverVersion": lambda: MACHINE["driver_cuda"],
        "nvmlSystemGetCudaDriverVersion_v2": lambda: MACHINE["driver_cuda"],
        "nvmlSystemGetProcessName": lambda pid: next(
            (one["name"] for card in cards for one in card["held_by"] if one["pid"] == pid), "python"
        ),
    }
    for name, function in replaced.items():
        setattr(nvml, name, function)


def emulate_bitsandbytes(specs):
    """Asks for the cards' capability, as the package does at its import; then loads the CPU's library."""
    original = specs.get_cuda_specs

    def ask_and_forget():
        if original() is None and MACHINE["nvml"] and find_visible():
            raise RuntimeError("bitsandbytes would load its CPU library beside a card")

    specs.get_cuda_specs = ask_and_forget


def emulate_nccl(distributed):
    """Connects processes through gloo, as their tensors are on the CPU."""
    original = distributed.init_process_group

    def connect(backend, **named):
        original("gloo" if backend == "nccl" else backend, **named)

    distributed.init_process_group = connect


def emulate_data_parallel(module):
    """Copies a model to no card."""
    original = module.DistributedDataParallel.__init__

    def start(self, model, device_ids=None, output_device=None, **named):
        original(self, model, **named)

    module.DistributedDataParallel.__init__ = start


def emulate_driver(driver):
    """What torch is built for stands in a file of the real one; NVML says the rest."""
    driver.read_torch_cuda = lambda: MACHINE["torch_cuda"]


EMULATED = {
    "torch": emulate_torch,
    "torch.nn.parallel.distributed": emulate_data_parallel,
    "torch.distributed.distributed_c10d": emulate_nccl,
    "bench.run.driver": emulate_driver,
    "pynvml": emulate_nvml,
    "bitsandbytes.cuda_specs": emulate_bitsandbytes,
}


class Finder(importlib.abc.MetaPathFinder):
    """Emulates a package as soon as it is imported, so that no process imports torch for this alone."""

    def find_spec(self, name, path, target=None):
        if name not in EMULATED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            EMULATED[name](module)

        spec.loader.exec_module = exec_module
        return spec


if MACHINE is not None:
    if MACHINE["torch_cuda"] is None:  # the real torch is one for CPUs
        EMULATED = {name: EMULATED[name] for name in ("bench.run.driver", "pynvml")}
    sys.meta_path.insert(0, Finder())
