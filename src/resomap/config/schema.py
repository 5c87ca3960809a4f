"""Every setting of ResoMap: one model per YAML file, each field with its unit, range and default.

The docstring under a field is its documentation: configs/README.md is generated from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Resolution = Annotated[int, Field(ge=16, le=4096)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Rgb = tuple[float, float, float]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are never changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_attribute_docstrings=True)


class StudyConfig(Section):
    """config.yaml: the study as a whole. The file may also hold any other section by its name."""

    name: str | None = None
    """Name of the study (MLflow's experiment); null: the data set's name."""
    output: str = "studies/{data}"
    """Directory of the study; {data} is replaced by the data set's name."""
    wait_for_others: bool = True
    """Stay until the runs that other processes work on are finished too, and take over those of a process that died."""
    lease_seconds: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 60.0
    """Without a sign of life for so long another process's run is taken over; on NFS more than its attribute cache."""


class SweepConfig(Section):
    """sweep.yaml: the grid models x resolutions x seeds."""

    models: Annotated[list[str], Field(min_length=1)] = [
        "vgg11", "vgg13", "vgg16",
        "resnet18", "resnet34", "resnet50", "resnet101",
        "mobilenet_v2", "mobilenet_v2_small", "mobilenet_v3_small", "mobilenet_v3_large",
        "simple_cnn", "tiny_cnn",
    ]  # fmt: skip
    """Model names (case-insensitive): the 13, any timm model, or package.module:callable."""
    resolutions: Annotated[list[Resolution], Field(min_length=1)] = [224, 256, 320, 384, 512]
    """Input resolutions: sides in pixels of the square input."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2]
    """Seeds of initialisation, order and crops, shared by all resolutions; 3 or more for any claim."""

    @model_validator(mode="after")
    def _no_repeats(self) -> SweepConfig:
        for name in ("models", "resolutions", "seeds"):
            values = [str(v).lower() for v in getattr(self, name)]
            repeated = sorted({v for v in values if values.count(v) > 1})
            if repeated:
                raise ValueError(f"{name} lists {', '.join(repeated)} more than once; list each once")
        return self


class TrainingConfig(Section):
    """training.yaml: how each run is trained; the same at every resolution."""

    epochs: Count = 30
    """Passes over the training images; the same number of updates at every resolution (but see `budget`)."""
    budget: Literal["epochs", "compute_matched"] = "epochs"
    """'epochs': every resolution trains the same updates. 'compute_matched': every resolution is given the same
    computation; the largest of the study's first start trains `epochs`, smaller ones as many more as they have fewer
    multiply-accumulates, with a schedule (warm-up, steps, patience) that is stretched with them. Then length of
    training differs with resolution: a confounder that the report names."""
    batch_size: Count = 32
    """Images per optimiser update, over all devices (the effective batch)."""
    micro_batch: Count | None = None
    """Images per forward pass and device; null: what autotune finds fastest, without it batch_size / number of
    processes. Smaller values accumulate gradients, the effective batch stays. The same at every resolution of a model,
    since BatchNorm sees it."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """Optimiser."""
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 0.05
    """Weight decay; not applied to biases and normalisation parameters."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum of sgd (Nesterov)."""
    schedule: Literal["cosine", "step", "plateau", "exponential", "constant"] = "cosine"
    """Learning rate over time, stepped per update (plateau: per epoch on the validation loss)."""
    warmup_epochs: NonNegative = 1.0
    """Epochs of linear warm-up before the schedule; fractions allowed."""
    step_epochs: Count = 10
    """Epochs between two drops of schedule 'step'."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Factor of each drop of 'step' and 'plateau'; per epoch for 'exponential'."""
    plateau_patience: Count = 5
    """Epochs without a better validation loss before 'plateau' drops the rate."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Label smoothing of the cross-entropy."""
    class_weights: Literal["none", "balanced"] = "none"
    """'balanced' weighs each class by N / (K n_k)."""
    clip_grad_norm: Positive | None = None
    """Largest L2 norm of the gradient; null: no clipping."""
    monitor: Literal["loss", "accuracy", "balanced_accuracy", "macro_f1"] = "macro_f1"
    """Validation metric that selects the best epoch."""
    monitor_mode: Literal["min", "max"] = "max"
    """Whether a smaller or a larger value of `monitor` is better."""
    early_stopping_patience: Count | None = None
    """Epochs without improvement before a run stops; null: never (the same updates at every resolution)."""
    successive_halving: bool = False
    """Stop runs that are clearly dominated: after a quarter and half of the epochs, where validation accuracy is shown
    to be lower than the best run's by more than analysis.delta (exact paired bound). A model's largest resolution never
    stops. A model at a resolution of which a run was stopped is not assessed, and the report names it."""
    top_k: Count = 1
    """Checkpoints kept per run, best first."""
    save_every_s: NonNegative = 60.0
    """Seconds between two saved states within an epoch (and one at each epoch's end); 0: every update."""

    @model_validator(mode="after")
    def _mode_fits_metric(self) -> TrainingConfig:
        if (self.monitor == "loss") != (self.monitor_mode == "min"):
            better = "min" if self.monitor == "loss" else "max"
            raise ValueError(f"monitor_mode {self.monitor_mode} with monitor {self.monitor}: set it to {better}")
        return self

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> TrainingConfig:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} is above epochs {self.epochs}, so learning_rate would never be "
                "reached; lower warmup_epochs"
            )
        return self

    @model_validator(mode="after")
    def _part_of_the_batch(self) -> TrainingConfig:
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(
                f"micro_batch {self.micro_batch} is above batch_size {self.batch_size}, of which it is a part; lower "
                "micro_batch, or raise batch_size"
            )
        return self


class ProfilingConfig(Section):
    """system.yaml, profiling: how cost is measured after training."""

    enabled: bool = True
    """Measure latency, throughput, memory and FLOPs of every model and resolution at the end of a run."""
    blocks: Annotated[int, Field(ge=5)] = 50
    """Timed blocks of each model and resolution, taken in turn so that drift of the machine falls on all alike."""
    precision: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.02
    """Go on until the 95 % interval of each ratio of latency between two resolutions of a model is narrower than this
    share of it and `blocks` rounds were undisturbed; null: `blocks` rounds, however they agree."""
    budget_s: Positive = 120.0
    """Seconds of timing for each mode; what is not reached by then is said. Every model and resolution gets 10 rounds
    all the same."""
    share_of_training: Annotated[float, Field(gt=0.0)] | None = 0.1
    """At the end of a run timing gets at most this share of what training took (and 10 s, where that is more), so that
    a small study is not mostly timing; `resomap profile` gives it all of budget_s later. null: budget_s at once."""
    warmup: Count = 5
    """Least number of untimed calls before; more until the times are stable."""
    modes: Annotated[
        list[Literal["eager", "channels_last", "autocast", "compile", "onnxruntime"]], Field(min_length=1)
    ] = ["eager"]
    """Ways to deploy that are measured; the first is the one that tables and figures show."""
    max_batch: Count = 512
    """Largest batch tried for the throughput, as far as memory suffices; the search ends where throughput stops
    growing. Where it still grew, tables say "at least"."""
    end_to_end_images: Annotated[int, Field(ge=0)] = 8
    """Image files timed from disk to answer (decode, resize, model); 0: none."""


class SystemConfig(Section):
    """system.yaml: device, precision and speed; results agree within rounding whatever is chosen."""

    device: str = "auto"
    """'auto' (the accelerator, else the CPU), 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu' ..."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Precision of the forward pass in training; auto: what autotune finds fastest for a model, the same at all its
    resolutions; without autotune bf16 on accelerators that have it, fp16 on others, no on CPU."""
    channels_last: bool | None = None
    """Memory format NHWC: up to 2.4 times as fast on CPU, and needed for tensor cores; null: what autotune finds
    fastest, true without it."""
    autotune: bool = True
    """Time the settings of speed that are left open (mixed_precision auto, channels_last and training.micro_batch null)
    before a model's first run and keep the fastest, where that costs less than 3 % of the training. The choice is part
    of what determines a run: a study keeps what it began with. Off with `deterministic` and on several processes."""
    cuda_graphs: bool | None = None
    """Launch a micro-batch's forward and backward pass on CUDA as one graph: the same kernels, several times as fast
    where Python takes longer to launch them than the card to compute. null: true, but false for modules of your own,
    whose Python may decide something else at each step, and with `deterministic`; not on several processes."""
    cudnn_benchmark: bool = True
    """Let cuDNN time its algorithms; fixed input sizes make that pay."""
    deterministic: bool = False
    """Only deterministic algorithms (slower on GPUs; the CPU is deterministic anyway)."""
    threads: Count | None = None
    """CPU threads for tensor work; null: torch's choice."""
    runs_at_once: Count | None = None
    """Runs side by side on this machine, each with its share of the threads, or an accelerator of its own; null: on CPU
    up to 4 where the study is long enough and memory suffices (a small network does not keep many threads busy), else
    1."""
    executor: Literal["local", "ray"] = "local"
    """Who runs the cells: 'local' (this process, beside others on the same study) or 'ray' (tasks of a Ray cluster)."""
    ray_address: str | None = None
    """Address of the Ray cluster, 'auto' on one of its nodes; null: RAY_ADDRESS, else a Ray of this machine alone."""
    processes_per_run: Count = 1
    """Processes that each run is spread over on its machine (DistributedDataParallel), one a GPU; gloo on CPU."""
    keep_memory: bool = True
    """Keep freed memory for the next step (glibc): small networks train faster on CPU, for about 14 % more memory."""
    memory_gib: Positive | None = None
    """Memory that a run may take, for `resomap plan`; null: what the device has free."""
    profiling: ProfilingConfig = ProfilingConfig()


class AugmentationConfig(Section):
    """data.yaml, augmentation: what training images go through; geometry in fractions of the side."""

    crop: Literal["random_resized", "center"] = "random_resized"
    """'random_resized': random box, the same in image coordinates at every resolution; 'center': none."""
    scale: tuple[Fraction, Fraction] = (0.35, 1.0)
    """Share of the image's area that a random crop covers."""
    ratio: tuple[Positive, Positive] = (0.75, 1.3333333333333333)
    """Aspect ratio (width / height) of a random crop."""
    horizontal_flip: Fraction = 0.5
    """Probability of a left-right flip."""
    vertical_flip: Fraction = 0.0
    """Probability of a top-bottom flip."""
    brightness: NonNegative = 0.2
    """Jitter: factor drawn from [1 - b, 1 + b]."""
    contrast: NonNegative = 0.2
    """Jitter: factor drawn from [1 - c, 1 + c]."""
    saturation: NonNegative = 0.2
    """Jitter: factor drawn from [1 - s, 1 + s]."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Hue shift in turns; costs more than everything else together on CPU (3-16 ms an image)."""
    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Largest rotation either way; expensive on CPU (2-7 ms an image)."""
    blur_probability: Fraction = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[NonNegative, NonNegative] = (0.0005, 0.005)
    """Range of the blur's sigma, in fractions of the side (0.002 is 0.45 px at 224)."""
    resolution_aware: bool = False
    """ResolutionAwareAugmentation: stronger at high, gentler at low resolution. A confounder: recorded."""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentationConfig:
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first value {low:g} is above the second {high:g}; swap them")
        if self.scale[0] <= 0:
            raise ValueError("scale: a crop must cover more than 0 of the image; 0.08 to 1.0 is usual")
        return self


class AcuityConfig(Section):
    """data.yaml, acuity: the generated data set with known answers."""

    variant: Literal["standard", "null", "shortcut"] = "standard"
    """'null': evidence in low frequency only; 'shortcut': a class-correlated tint beside it."""
    size: Annotated[int, Field(ge=64, le=1024)] = 256
    """Side of the generated images in pixels."""
    bands: Annotated[list[Positive], Field(min_length=1)] = [27, 47]
    """Spatial frequencies of the evidence in cycles per image; two classes (orientations) each."""
    train: Count = 1200
    """Training images, all classes together."""
    val: Count = 300
    """Validation images."""
    test: Count = 600
    """Test images."""
    native_dprime: Positive = 50.0
    """d' of the ideal observer at native size, for telling the two orientations of a band apart."""
    seed: Seed = 0
    """Seed of the generator."""


class DataConfig(Section):
    """data.yaml: the images, how they are split, decoded, cached and fed."""

    source: str = "acuity"
    """A folder of images, torchvision:NAME, or acuity (generated)."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of each class for validation, where the source has no validation split."""
    test_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    """Share of each class for test, where the source is one folder of classes."""
    split_seed: Seed = 0
    """Seed of that split."""
    kernel: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    """Resize kernel, always antialiased."""
    information_resolution: Resolution | None = None
    """Side to which every image (training crops too) is reduced before it is brought to the input resolution, so that a
    larger input has larger maps and no more detail; part of a run's identity. null: none."""
    on_bad_file: Literal["stop", "skip"] = "stop"
    """'stop' before training with the list of unreadable files, or 'skip' and record them."""
    max_megapixels: Positive = 178.0
    """Larger images are refused as decompression bombs."""
    cache_dir: str = "~/.cache/resomap"
    """Where decoded images, generated and downloaded sets are kept."""
    cache_gib: NonNegative = 20.0
    """Bound of the decoded cache in GiB; where a set does not fit, images are decoded on the fly."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """DataLoader workers; null: 0 on CPU (decoding is cached, the cores are busy); on accelerators `system.threads`, or
    the machine's cores shared among them, less one, from 4 to 16 (evaluation: 4)."""
    pin_memory: bool = True
    """Page-locked host memory for transfers to an accelerator; no effect on CPU."""
    prefetch_factor: Count = 2
    """Batches that each worker prepares ahead."""
    persistent_workers: bool = True
    """Keep workers alive between epochs."""
    non_blocking: bool = True
    """Overlap transfers to an accelerator with computation."""
    mean: Rgb | None = None
    """Mean of each channel (R, G, B in 0..1); null: the model's own, ImageNet's where it has none."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Standard deviation of each channel; null as for mean."""
    augmentation: AugmentationConfig = AugmentationConfig()
    acuity: AcuityConfig = AcuityConfig()


class ExplainabilityConfig(Section):
    """explainability.yaml: where the models look, compared across resolutions."""

    enabled: bool = True
    """Explain the finished runs at the end of a run."""
    methods: Annotated[
        list[
            Literal[
                "gradcam", "integrated_gradients", "saliency", "smoothgrad",
                "gradient_shap", "occlusion", "kernel_shap", "lime",
            ]
        ],
        Field(min_length=1),
    ] = ["gradcam"]  # fmt: skip
    """Explanation methods; the first is the one whose consistency the tables lead with."""
    images: Annotated[int, Field(ge=4)] = 64
    """Test images explained, the same ones for every run; drawn by class, from `seed`."""
    seed: Seed = 0
    """Seed of that draw, of the bootstrap and of methods that sample."""
    target: Literal["label", "predicted"] = "label"
    """Class that is explained; the image's label is the same at every resolution."""
    target_layer: str | None = None
    """Layer of Grad-CAM by its dotted name; null: a model's last feature map at its smallest resolution."""
    batch_size: Count = 16
    """Images explained at once."""
    ig_steps: Count = 24
    """Gradients of Integrated Gradients an image at first; then two at a time, where most of the logit is not yet
    accounted for, until the completeness error is under the bound."""
    ig_max_steps: Count = 192
    """Gradients of Integrated Gradients an image at most."""
    ig_max_error: Positive = 0.1
    """Bound of an image's relative completeness error of Integrated Gradients."""
    similarity: Literal["spearman", "pearson", "ssim"] = "spearman"
    """Similarity of two maps that the consistency is computed from."""
    bootstrap_draws: Annotated[int, Field(ge=200)] = 2000
    """Draws of the bootstrap intervals."""
    gallery: Annotated[int, Field(ge=0)] = 4
    """Images drawn side by side at each resolution."""
    spectral: bool = True
    """Remove octave bands from the images and measure which detail each resolution uses."""
    faithfulness: bool = True
    """Measure insertion, deletion and sensitivity of the maps and each network's receptive field (one run of each model
    and resolution)."""
    sanity: bool = True
    """Compare with maps of the same network with random weights; a part of `faithfulness`, without which it does
    nothing."""
    random_weights: Annotated[int, Field(ge=3)] = 20
    """Random initialisations of that comparison where the evidence's place is known (acuity); 1 elsewhere."""

    @model_validator(mode="after")
    def _steps_ordered(self) -> ExplainabilityConfig:
        if self.ig_steps > self.ig_max_steps:
            raise ValueError(f"ig_steps {self.ig_steps} is above ig_max_steps {self.ig_max_steps}; raise the latter")
        return self


class MlflowConfig(Section):
    """mlflow.yaml: tracking."""

    enabled: bool = True
    """Log to MLflow: one experiment a study, one run a run."""
    tracking_uri: str | None = None
    """Any MLflow tracking URI; null: a sqlite file inside the study. Passwords belong into the environment
    (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD); one in the URI is left out of study.yaml."""
    log_artifacts: bool = True
    """Attach metadata and predictions of each run (weights stay in the study)."""


class CnnConfig(Section):
    """models.yaml: a plain CNN: per block conv, batch norm, ReLU, 2x2 max pooling; average pool; linear."""

    channels: Annotated[list[Count], Field(min_length=1, max_length=8)]
    """Output channels of each block; each block halves the side."""
    kernel_size: Literal[1, 3, 5, 7] = 3
    """Side of the convolution kernels."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before the classifier."""


class ModelsConfig(Section):
    """models.yaml: families (folders of the checkpoints) and our own networks."""

    pretrained: bool | str = False
    """true: the library's weights (needs the network once); or the path of a weights file."""
    allow_callables: bool = False
    """Allow package.module:callable as a model: it runs that code. Taken from --set only, never from a file."""
    families: dict[str, list[str]] = {
        "vgg": ["vgg11", "vgg13", "vgg16"],
        "resnet": ["resnet18", "resnet34", "resnet50", "resnet101"],
        "mobilenet": ["mobilenet_v2", "mobilenet_v2_small", "mobilenet_v3_small", "mobilenet_v3_large"],
        "cnn": ["simple_cnn", "tiny_cnn"],
    }
    """Family of each model; others go to the family 'timm' or 'custom'."""
    simple_cnn: CnnConfig = CnnConfig(channels=[32, 64, 128, 256], dropout=0.2)
    tiny_cnn: CnnConfig = CnnConfig(channels=[16, 32, 64])


class AnalysisConfig(Section):
    """analysis.yaml: what the tables show."""

    metric: Literal["accuracy", "balanced_accuracy", "macro_f1"] = "macro_f1"
    """Metric of the closing table and of the verdict."""
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Loss of the metric against the best option that is acceptable for a cheaper one."""
    report: bool = True
    """Write the verdict and report/index.html at the end of a run; needs system.profiling."""
    matrix: bool = False
    """Evaluate every run at every resolution and on less detail at the end of a run (also `resomap matrix`)."""
    top_k: Annotated[int, Field(ge=2)] = 5
    """k of top-k accuracy (bounded by the number of classes)."""
    calibration_bins: Annotated[int, Field(ge=2, le=1000)] = 15
    """Equal-width bins of the expected calibration error."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the Wilson intervals."""


class ResoMapConfig(Section):
    """The whole configuration; each field is one YAML file (study is config.yaml)."""

    study: StudyConfig = StudyConfig()
    sweep: SweepConfig = SweepConfig()
    training: TrainingConfig = TrainingConfig()
    system: SystemConfig = SystemConfig()
    data: DataConfig = DataConfig()
    explainability: ExplainabilityConfig = ExplainabilityConfig()
    mlflow: MlflowConfig = MlflowConfig()
    models: ModelsConfig = ModelsConfig()
    analysis: AnalysisConfig = AnalysisConfig()


FILES: dict[str, str] = {
    "study": "config.yaml",
    "sweep": "sweep.yaml",
    "training": "training.yaml",
    "system": "system.yaml",
    "data": "data.yaml",
    "explainability": "explainability.yaml",
    "mlflow": "mlflow.yaml",
    "models": "models.yaml",
    "analysis": "analysis.yaml",
}
"""Section -> file name under configs/."""
