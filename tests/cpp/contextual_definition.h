// The contextual loss of one planar sample by its definition, written plainly in double: the Nx x Ny matrix and all.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "contextual.h"

namespace contextual_cases {

struct Gradients {
    std::vector<double> source, target;
};

// Features (C, H, W), no channel selection and no weights; centre kSample or kNone.
class Definition {
  public:
    double loss;

    Definition(const pe::ContextualProblem& problem, const double* x, const double* y)
        : p_(problem), nx_(p_.source_positions()), ny_(p_.target_positions()), channels_(p_.channels.count) {
        cosine_ = p_.distance == pe::Distance::kCosine;
        centred_ = cosine_ && p_.center == pe::Center::kSample;
        mean_.assign(channels_, 0.0);
        if (centred_) {
            for (int64_t c = 0; c < channels_; ++c) {
                for (int64_t j = 0; j < ny_; ++j) mean_[c] += y[c * ny_ + j] / double(ny_);
            }
        }
        x_ = units(x, nx_, x_length_);
        y_ = units(y, ny_, y_length_);
        d_.resize(nx_ * ny_);
        v_.resize(nx_ * ny_);
        k_.resize(nx_);
        for (int64_t i = 0; i < nx_; ++i) fill_row(i);
        best_.assign(ny_, -HUGE_VAL);
        double similarity = 0;
        for (int64_t j = 0; j < ny_; ++j) {
            for (int64_t i = 0; i < nx_; ++i) best_[j] = std::max(best_[j], v_[i * ny_ + j]);
            similarity += std::exp(best_[j]) / double(ny_);
        }
        similarity_ = similarity;
        loss = p_.form == pe::Form::kLog ? -std::log(similarity + p_.eps_log) : 1 - similarity;
    }

    // By how much the worst of these winners misses the largest similarity of its column, as a logarithm.
    double largest_deficit(const std::vector<int32_t>& winners) const {
        double worst = 0;
        for (int64_t j = 0; j < ny_; ++j) worst = std::max(worst, best_[j] - v_[winners[j] * ny_ + j]);
        return worst;
    }

    // By how much the worst of these columns exceeds the least distance of its row, in units of m + eps.
    double largest_excess(const std::vector<int32_t>& nearest) const {
        double worst = 0;
        for (int64_t i = 0; i < nx_; ++i) {
            worst = std::max(worst, (d_[i * ny_ + nearest[i]] - least(i)) / (least(i) + p_.eps));
        }
        return worst;
    }

    // Gradients of the loss, where these rows win the columns and these columns are nearest to the rows.
    Gradients gradients(const std::vector<int32_t>& winners, const std::vector<int32_t>& nearest) const {
        const double outer = p_.form == pe::Form::kLog ? -1 / (similarity_ + p_.eps_log) : -1;
        std::vector<double> at_distance(nx_ * ny_, 0.0);
        for (int64_t j = 0; j < ny_; ++j) {
            const int64_t i = winners[j];
            const double* v = &v_[i * ny_];
            const double* d = &d_[i * ny_];
            double* a = &at_distance[i * ny_];
            // v_j = -k d_j - log sum exp(-k d), k = 1 / (h (m + eps))
            const double g = outer * std::exp(v[j]) / double(ny_);
            double excess = 0;  // sum of p (d - d_j)
            for (int64_t n = 0; n < ny_; ++n) {
                excess += std::exp(v[n]) * (d[n] - d[j]);
                a[n] += g * k_[i] * std::exp(v[n]);
            }
            a[j] -= g * k_[i];
            a[nearest[i]] -= g * excess * p_.bandwidth * k_[i] * k_[i];
        }
        Gradients at_units{std::vector<double>(nx_ * channels_, 0.0), std::vector<double>(ny_ * channels_, 0.0)};
        for (int64_t i = 0; i < nx_; ++i) {
            for (int64_t j = 0; j < ny_; ++j) {
                const double a = at_distance[i * ny_ + j];
                const double *x = &x_[i * channels_], *y = &y_[j * channels_];
                double *to_x = &at_units.source[i * channels_], *to_y = &at_units.target[j * channels_];
                for (int64_t c = 0; a != 0 && c < channels_; ++c) {
                    to_x[c] += cosine_ ? -a * y[c] : 2 * a * (x[c] - y[c]);
                    to_y[c] += cosine_ ? -a * x[c] : 2 * a * (y[c] - x[c]);
                }
            }
        }
        std::vector<double> at_mean(channels_, 0.0);
        Gradients result{through_length(at_units.source, x_, x_length_, at_mean),
                         through_length(at_units.target, y_, y_length_, at_mean)};
        for (int64_t c = 0; centred_ && c < channels_; ++c) {
            for (int64_t j = 0; j < ny_; ++j) result.target[c * ny_ + j] -= at_mean[c] / double(ny_);
        }
        return result;
    }

  private:
    static constexpr double kMinLength = 1e-6;

    // [n][channels], from (C, n).
    std::vector<double> units(const double* features, int64_t n, std::vector<double>& length) const {
        std::vector<double> result(n * channels_);
        length.assign(n, 1.0);
        for (int64_t i = 0; i < n; ++i) {
            double square = 0;
            for (int64_t c = 0; c < channels_; ++c) {
                const double value = features[c * n + i] - mean_[c];
                result[i * channels_ + c] = value;
                square += value * value;
            }
            if (!cosine_) continue;
            length[i] = std::sqrt(square);
            for (int64_t c = 0; c < channels_; ++c) result[i * channels_ + c] /= std::max(length[i], kMinLength);
        }
        return result;
    }

    // The gradient at normalised features, [n][channels], taken through the normalisation, as (C, n).
    std::vector<double> through_length(const std::vector<double>& gradient, const std::vector<double>& unit,
                                       const std::vector<double>& length, std::vector<double>& total) const {
        const int64_t n = int64_t(length.size());
        std::vector<double> result(gradient.size());
        for (int64_t i = 0; i < n; ++i) {
            const double *g = &gradient[i * channels_], *u = &unit[i * channels_];
            double along = 0;
            for (int64_t c = 0; cosine_ && length[i] > kMinLength && c < channels_; ++c) along += g[c] * u[c];
            for (int64_t c = 0; c < channels_; ++c) {
                const double value = (g[c] - along * u[c]) / (cosine_ ? std::max(length[i], kMinLength) : 1);
                result[c * n + i] = value;
                total[c] += value;
            }
        }
        return result;
    }

    void fill_row(int64_t i) {
        double* d = &d_[i * ny_];
        for (int64_t j = 0; j < ny_; ++j) {
            const double *x = &x_[i * channels_], *y = &y_[j * channels_];
            double value = 0;
            for (int64_t c = 0; c < channels_; ++c) {
                value += cosine_ ? x[c] * y[c] : (x[c] - y[c]) * (x[c] - y[c]);
            }
            const double dy = (double(i / p_.source_width) + 0.5) / double(p_.source_height) -
                              (double(j / p_.target_width) + 0.5) / double(p_.target_height);
            const double dx = (double(i % p_.source_width) + 0.5) / double(p_.source_width) -
                              (double(j % p_.target_width) + 0.5) / double(p_.target_width);
            d[j] = (cosine_ ? std::max(0.0, 1 - value) : value) + p_.spatial_weight * (dy * dy + dx * dx);
        }
        const double m = least(i);
        k_[i] = 1 / (p_.bandwidth * (m + p_.eps));
        double z = 0;
        for (int64_t j = 0; j < ny_; ++j) z += std::exp(-k_[i] * (d[j] - m));
        for (int64_t j = 0; j < ny_; ++j) v_[i * ny_ + j] = -k_[i] * (d[j] - m) - std::log(z);
    }

    double least(int64_t i) const { return *std::min_element(&d_[i * ny_], &d_[i * ny_] + ny_); }

    const pe::ContextualProblem p_;
    const int64_t nx_, ny_, channels_;
    bool cosine_, centred_;
    double similarity_;
    std::vector<double> mean_, x_, y_, x_length_, y_length_;  // normalised features, [position][channel]
    std::vector<double> d_, v_;                               // [row][column]: distance, log CX
    std::vector<double> k_, best_;
};

inline double plain_loss(const pe::ContextualProblem& problem, const double* x, const double* y) {
    return Definition(problem, x, y).loss;
}

}  // namespace contextual_cases
