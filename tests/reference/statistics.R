# Figures that tests/reference/test_statistics_reference.py compares ours with: Rscript statistics.R > statistics.txt
# Base R alone. One line a figure: name, then values with 12 digits.
show <- function(name, ...) cat(name, formatC(c(...), digits = 12, format = "g"), "\n")

# Wilson's score interval: prop.test without continuity correction. Exact binomial of McNemar: binom.test.
for (case in list(c(0, 10), c(10, 10), c(7, 10), c(432, 500), c(9731, 10000))) {
  interval <- prop.test(case[1], case[2], correct = FALSE)$conf.int
  show(paste0("wilson_", case[1], "_", case[2]), interval)
}
for (case in list(c(9, 3), c(0, 6), c(40, 25), c(5, 5))) {
  name <- paste0(case[1], "_", case[2])
  exact <- binom.test(case[1], sum(case), 0.5)$p.value
  show(paste0("mcnemar_exact_", name), exact)
  # mid-p: what is less likely than what was seen, and half of what is as likely
  likely <- dbinom(0:sum(case), sum(case), 0.5)
  seen <- dbinom(case[1], sum(case), 0.5)
  as_likely <- abs(likely / seen - 1) < 1e-9
  show(paste0("mcnemar_mid_", name), sum(likely[likely < seen & !as_likely]) + sum(likely[as_likely]) / 2)
}
# The large-sample McNemar test, for Cochran's Q of two groups: they are the same statistic.
both <- mcnemar.test(matrix(c(30, 25, 40, 5), 2), correct = FALSE)
show("mcnemar_chi_40_25", both$statistic, both$p.value)

# Cochran's Q is the Cochran-Mantel-Haenszel test of answer against group, one stratum an image.
right <- as.matrix(read.table(text = "
1 1 1 1
0 1 1 1
0 0 1 1
1 0 1 1
0 0 0 1
1 1 0 1
0 1 1 1
0 0 0 0
0 0 1 1
1 1 1 0
0 1 1 1
0 0 1 0"))
long <- data.frame(right = c(right), group = rep(1:4, each = 12), image = rep(1:12, 4))
cmh <- mantelhaen.test(table(factor(long$group), factor(long$right), factor(long$image)))
show("cochran_q", cmh$statistic, cmh$parameter, cmh$p.value)
k <- ncol(right)
q <- (k - 1) * (k * sum(colSums(right)^2) - sum(right)^2) / (k * sum(right) - sum(rowSums(right)^2))
show("cochran_q_by_formula", q)

show("holm", p.adjust(c(0.04, 0.001, 0.02, 0.3, 0.02, 0.6), method = "holm"))

# A saturating power law through six points, by unweighted nls.
side <- c(64, 96, 128, 192, 256, 384)
value <- c(0.612, 0.758, 0.821, 0.874, 0.897, 0.911)
fit <- nls(value ~ top - drop * (side / 64)^-rate, start = list(top = 0.9, drop = 0.3, rate = 1))
show("power_law", coef(fit))
show("power_law_at_160", predict(fit, data.frame(side = 160)))
show("power_law_worst_residual", max(abs(residuals(fit))))

# t = fixed + scale r^exponent with weights 1 / t^2 (relative errors).
ms <- c(6.1, 9.2, 13.9, 26.4, 45.8, 98.7)
cost <- nls(ms ~ fixed + scale * (side / 384)^exponent, start = list(fixed = 4, scale = 95, exponent = 2), weights = 1 / ms^2)
show("cost_curve", coef(cost))

# Two-way layout, images x seeds: mean squares by aov, and the standard error that follows.
answers <- matrix(c(1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1), nrow = 3)
table3 <- data.frame(y = c(answers), seed = factor(rep(1:3, 8)), image = factor(rep(1:8, each = 3)))
ms3 <- summary(aov(y ~ image + seed, data = table3))[[1]][["Mean Sq"]]
show("mean_squares_image_seed_rest", ms3)

# Paired t test (two runs of one seed), and Student's bound of non-inferiority.
a <- rep(c(1, 1, 0, 1, 0, 1, 1, 1, 1, 0), 10)
b <- c(rep(c(1, 0, 0, 1, 0, 1, 1, 1, 0, 0), 5), rep(c(1, 1, 0, 1, 1, 1, 1, 1, 1, 0), 5))
paired <- t.test(a, b, paired = TRUE)
show("paired_t", paired$estimate, paired$stderr, paired$parameter, paired$p.value)
