"""What the report says about its methods, and where they come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping

COMPUTE_MATCHED, STOPS_EARLY, STOPS_DOMINATED, RESOLUTION_AWARE = (
    "compute-matched",
    "stops early",
    "stops dominated runs",
    "resolution-aware",
)
"""What a study's settings make differ between its runs, besides resolution."""

_DIFFERS: Mapping[str, str] = {
    COMPUTE_MATCHED: "Every resolution is given the same computation instead of the same number of updates: small ones "
    "train longer, by a schedule that is stretched with them.",
    STOPS_EARLY: "A run ends when its validation metric has stopped improving, so that the number of updates differs.",
    RESOLUTION_AWARE: "Augmentation is stronger at high resolutions and gentler at low ones: what it does is not told "
    "apart from what resolution does.",
    STOPS_DOMINATED: "Runs that were shown to be worse than the best one at a quarter or at half of their epochs were "
    "stopped; a model at a resolution of which one was is not assessed.",
}


def methods(differs: Collection[str] = ()) -> tuple[str, ...]:
    """The paragraphs.

    Args:
        differs: what does, besides resolution: COMPUTE_MATCHED, STOPS_EARLY, STOPS_DOMINATED, RESOLUTION_AWARE.
    """
    same = ["images", "splits", "crops", "batch", "number of updates"]
    if COMPUTE_MATCHED in differs or STOPS_EARLY in differs:
        same.remove("number of updates")
    if RESOLUTION_AWARE in differs:
        same.remove("crops")
    alone = len(same) == 5
    first = "Only the input resolution differs" if alone else "Not only the input resolution differs"
    text = f"{first} between the runs of a model. The same are {', '.join(same)} and seeds."
    return " ".join([text, *(_DIFFERS[what] for what in _DIFFERS if what in differs), _CHOICE]), *_METHODS


_CHOICE = (
    "The epoch with the best validation metric is kept; the choice of resolution is made on validation, and test is "
    "opened once to report."
)
_METHODS = (
    "Images and seeds are both samples. The variance of a metric is that of a two-way layout (images x seeds), "
    "seeds in the place of readers [1]; seeds are never pooled as extra images. The variance between seeds, which few "
    "seeds leave badly known, enters as its distribution in a hierarchical model [2] of all of a model's resolutions "
    "[3]: they vary alike up to a factor that is itself estimated. Where one resolution's seeds vary several times as "
    "much as the others', two or three seeds cannot show it, and its intervals are too narrow. Single figures get "
    "Wilson's interval [4] with the number of images that gives this variance; differences are paired by image, "
    "seeds taken to be independent. Macro averages enter by Tukey's pseudo-values, each image left out in turn [5]; "
    "to balanced accuracy's variance half an image that is right and half a one that is wrong are added in its rarest "
    "class, to that of its differences one of each.",
    "An option is recommended if it is the cheapest that is shown not to be worse than the best by more than "
    "delta (one-sided 95 % bound), tested down each model's resolutions in a fixed sequence [6, 7] and at a level "
    "shared by the models, if no dearer one may still gain more than delta over it, and if it is itself shown to "
    "beat chance. Of options whose latencies differ by less than 5 %, and are not shown to, the better one is taken. "
    "Whether a least metric is reached is tested in the same order, each model's largest size at half of its level and "
    "what passes handing its own on [15]. "
    "Differences between resolutions carry p values adjusted by Holm [8] over a model's pairs; "
    "beside them stands McNemar's mid-p [11] and, for all resolutions at once, Cochran's Q [12], each joined over "
    "seeds by n / k times the k-th smallest p [13]. Probabilities of "
    "lying on the Pareto front and the expected regret come from drawing images anew, the same for all options and by "
    "class where every class has ten or more, the effects of new seeds from that distribution of the variance between "
    "them (to draw the seeds at hand anew would count part of the variance several times [9]), and latencies by round.",
    "The smooth curves are saturating power laws [14], weighted by the errors of the points, drawn between the "
    "measured resolutions only and only where the points do not contradict them (p of a parametric bootstrap at least "
    "0.01, and no point missed by three of its standard errors and by more than delta).",
    "Latency is the median over blocks that were timed in turn over all models and resolutions. Memory counts the "
    "bytes of live tensors, predicted on shapes alone and measured.",
    "Heat maps (Grad-CAM [10] and others) are compared unscaled, in normalised image coordinates on the coarsest "
    "map's grid, for the same class at every resolution. Similarity stands beside that of other images' maps (floor) "
    "and of another seed at the same resolution (ceiling). Grad-CAM explains one layer of a model at all its "
    "resolutions: its last feature map at the smallest, unless one was asked for.",
)
REFERENCES = (
    "Obuchowski, Rockette. Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests. "
    "Comm. Stat. Simul. 24, 1995.",
    "Gelman. Prior distributions for variance parameters in hierarchical models. Bayesian Analysis 1, 2006. "
    "doi:10.1214/06-BA117A",
    "Smyth. Linear models and empirical Bayes methods. Stat. Appl. Genet. Mol. Biol. 3, 2004. "
    "doi:10.2202/1544-6115.1027",
    "Wilson. Probable inference, the law of succession, and statistical inference. JASA 22, 1927.",
    "Efron. The Jackknife, the Bootstrap and Other Resampling Plans. SIAM, 1982.",
    "Maurer, Hothorn, Lehmacher. Multiple comparisons in drug clinical trials and preclinical assays: a-priori "
    "ordered hypotheses. Biometrie in der chemisch-pharmazeutischen Industrie 6, 1995.",
    "Piaggio et al. Reporting of noninferiority and equivalence randomized trials. JAMA 308, 2012. "
    "doi:10.1001/jama.2012.87802",
    "Holm. A simple sequentially rejective multiple test procedure. Scand. J. Stat. 6, 1979.",
    "Owen. The pigeonhole bootstrap. Ann. Appl. Stat. 1, 2007. doi:10.1214/07-AOAS122",
    "Selvaraju et al. Grad-CAM. ICCV 2017. arXiv:1610.02391",
    "Fagerland, Lydersen, Laake. The McNemar test for binary matched-pairs data. BMC Med. Res. Methodol. 13, 2013. "
    "doi:10.1186/1471-2288-13-91",
    "Cochran. The comparison of percentages in matched samples. Biometrika 37, 1950.",
    "Vovk, Wang. Combining p-values via averaging. Biometrika 107, 2020. doi:10.1093/biomet/asaa027",
    "Hestness et al. Deep learning scaling is predictable, empirically. 2017. arXiv:1712.00409",
    "Wiens. A fixed sequence Bonferroni procedure for testing multiple endpoints. Pharmaceutical Statistics 2, 2003.",
)
