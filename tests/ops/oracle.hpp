// The ops once more in fp64, straight from their formulas in ops.hpp, one element at a time.
#pragma once

#include <algorithm>

#include "llmft/ops/ops.hpp"
#include "ops/matrix.hpp"

namespace llmft::test::oracle {

inline Matrix matmul(Layout layout, const Matrix& a, const Matrix& b) {
  bool ta = layout == Layout::tn, tb = layout == Layout::nt;
  int64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols, n = tb ? b.rows : b.cols;
  Matrix d(m, n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < k; ++l) {
      double left = ta ? a(l, i) : a(i, l);
      for (int64_t j = 0; j < n; ++j) d(i, j) += left * (tb ? b(j, l) : b(l, j));
    }
  return d;
}

inline Matrix gather(const Matrix& x, const std::vector<int32_t>& rows) {
  Matrix y(static_cast<int64_t>(rows.size()), x.cols);
  for (int64_t i = 0; i < y.rows; ++i) y.put(i, 0, x.row_range(rows[static_cast<size_t>(i)], 1));
  return y;
}

// x of `count` rows, 0 but x[rows[i]] += y[i].
inline Matrix scatter_add(const Matrix& y, const std::vector<int32_t>& rows, int64_t count) {
  Matrix x(count, y.cols);
  for (int64_t i = 0; i < y.rows; ++i)
    for (int64_t j = 0; j < y.cols; ++j) x(rows[static_cast<size_t>(i)], j) += y(i, j);
  return x;
}

inline Matrix norm_rstd(const Matrix& x, double eps) {
  Matrix rstd(1, x.rows);
  for (int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (int64_t c = 0; c < x.cols; ++c) squares += x(t, c) * x(t, c);
    rstd[t] = 1 / std::sqrt(squares / static_cast<double>(x.cols) + eps);
  }
  return rstd;
}

inline Matrix norm(const Matrix& x, const Matrix& w, double eps) {
  Matrix y = x, rstd = norm_rstd(x, eps);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t c = 0; c < x.cols; ++c) y(t, c) = x(t, c) * rstd[t] * w[c];
  return y;
}

struct NormGradient {
  Matrix dx, dw;
};
inline NormGradient norm_backward(const Matrix& dy, const Matrix& x, const Matrix& w, const Matrix& rstd) {
  NormGradient result{Matrix(x.rows, x.cols), Matrix(1, x.cols)};
  for (int64_t t = 0; t < x.rows; ++t) {
    double r = rstd[t], along = 0;
    for (int64_t c = 0; c < x.cols; ++c) along += dy(t, c) * w[c] * x(t, c);
    for (int64_t c = 0; c < x.cols; ++c) {
      result.dx(t, c) = r * (dy(t, c) * w[c] - x(t, c) * r * r * along / static_cast<double>(x.cols));
      result.dw[c] += dy(t, c) * x(t, c) * r;
    }
  }
  return result;
}

inline Matrix rope(const Matrix& x, const std::vector<int32_t>& positions, const Matrix& table,
                   Direction direction) {
  Matrix y = x;
  int64_t dim = table.cols, half = dim / 2;
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t head = 0; head < x.cols; head += dim)
      for (int64_t i = 0; i < half; ++i) {
        int32_t p = positions[static_cast<size_t>(t)];
        double cos = table(p, i), sin = table(p, half + i) * (direction == Direction::forward ? 1 : -1);
        y(t, head + i) = x(t, head + i) * cos - x(t, head + half + i) * sin;
        y(t, head + half + i) = x(t, head + half + i) * cos + x(t, head + i) * sin;
      }
  return y;
}

struct AttentionResult {
  Matrix out, lse;
};
struct AttentionGradient {
  Matrix dq, dk, dv;
};

// Calls visit(query head, its key head, first token of the document, token) for every query.
template <class Visit>
void for_each_query(const AttentionShape& shape, const std::vector<int32_t>& cu_seqlens, Visit&& visit) {
  for (size_t document = 0; document + 1 < cu_seqlens.size(); ++document)
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t t = cu_seqlens[document]; t < cu_seqlens[document + 1]; ++t)
        visit(h, h * shape.kv_heads / shape.heads, static_cast<int64_t>(cu_seqlens[document]), t);
}

inline double score(const AttentionShape& shape, const Matrix& q, const Matrix& k, int64_t t, int64_t h,
                    int64_t s, int64_t g) {
  double total = 0;
  for (int64_t c = 0; c < shape.head_dim; ++c)
    total += q(t, h * shape.head_dim + c) * k(s, g * shape.head_dim + c);
  return total / std::sqrt(static_cast<double>(shape.head_dim));
}

inline AttentionResult attention(const AttentionShape& shape, const std::vector<int32_t>& cu_seqlens,
                                 const Matrix& q, const Matrix& k, const Matrix& v) {
  AttentionResult result{Matrix(q.rows, q.cols), Matrix(q.rows, shape.heads)};
  for_each_query(shape, cu_seqlens, [&](int64_t h, int64_t g, int64_t begin, int64_t t) {
    std::vector<double> scores;
    for (int64_t s = begin; s <= t; ++s) scores.push_back(score(shape, q, k, t, h, s, g));
    double top = *std::max_element(scores.begin(), scores.end()), total = 0;
    for (double x : scores) total += std::exp(x - top);
    result.lse(t, h) = top + std::log(total);
    for (int64_t s = begin; s <= t; ++s)
      for (int64_t c = 0; c < shape.head_dim; ++c)
        result.out(t, h * shape.head_dim + c) +=
            std::exp(scores[static_cast<size_t>(s - begin)] - result.lse(t, h)) *
            v(s, g * shape.head_dim + c);
  });
  return result;
}

inline AttentionGradient attention_backward(const AttentionShape& shape,
                                            const std::vector<int32_t>& cu_seqlens, const Matrix& q,
                                            const Matrix& k, const Matrix& v, const Matrix& out,
                                            const Matrix& lse, const Matrix& dout) {
  AttentionGradient result{Matrix(q.rows, q.cols), Matrix(k.rows, k.cols), Matrix(v.rows, v.cols)};
  int64_t dim = shape.head_dim;
  double scale = 1 / std::sqrt(static_cast<double>(dim));
  for_each_query(shape, cu_seqlens, [&](int64_t h, int64_t g, int64_t begin, int64_t t) {
    double mean = 0;
    for (int64_t c = 0; c < dim; ++c) mean += dout(t, h * dim + c) * out(t, h * dim + c);
    for (int64_t s = begin; s <= t; ++s) {
      double p = std::exp(score(shape, q, k, t, h, s, g) - lse(t, h)), dp = 0;
      for (int64_t c = 0; c < dim; ++c) dp += dout(t, h * dim + c) * v(s, g * dim + c);
      double ds = p * (dp - mean) * scale;
      for (int64_t c = 0; c < dim; ++c) {
        result.dq(t, h * dim + c) += ds * k(s, g * dim + c);
        result.dk(s, g * dim + c) += ds * q(t, h * dim + c);
        result.dv(s, g * dim + c) += p * dout(t, h * dim + c);
      }
    }
  });
  return result;
}

inline Matrix swiglu(const Matrix& gate_up) {
  int64_t width = gate_up.cols / 2;
  Matrix h(gate_up.rows, width);
  for (int64_t t = 0; t < h.rows; ++t)
    for (int64_t i = 0; i < width; ++i)
      h(t, i) = gate_up(t, i) / (1 + std::exp(-gate_up(t, i))) * gate_up(t, width + i);
  return h;
}

inline Matrix swiglu_backward(const Matrix& dh, const Matrix& gate_up) {
  int64_t width = dh.cols;
  Matrix result = gate_up;
  for (int64_t t = 0; t < dh.rows; ++t)
    for (int64_t i = 0; i < width; ++i) {
      double gate = gate_up(t, i), s = 1 / (1 + std::exp(-gate));
      result(t, i) = dh(t, i) * gate_up(t, width + i) * (s + gate * s * (1 - s));
      result(t, width + i) = dh(t, i) * gate * s;
    }
  return result;
}

inline Matrix cross_entropy(const Matrix& logits, const std::vector<int32_t>& targets) {
  Matrix loss(1, logits.rows);
  for (int64_t i = 0; i < logits.rows; ++i) {
    double top = logits(i, 0), total = 0;
    for (int64_t j = 0; j < logits.cols; ++j) top = std::max(top, logits(i, j));
    for (int64_t j = 0; j < logits.cols; ++j) total += std::exp(logits(i, j) - top);
    loss[i] = std::log(total) + top - logits(i, targets[static_cast<size_t>(i)]);
  }
  return loss;
}

inline Matrix cross_entropy_gradient(const Matrix& logits, const std::vector<int32_t>& targets,
                                     double scale) {
  Matrix gradient = logits, loss = cross_entropy(logits, targets);
  for (int64_t i = 0; i < logits.rows; ++i) {
    int32_t target = targets[static_cast<size_t>(i)];
    double log_total = loss[i] + logits(i, target);
    for (int64_t j = 0; j < logits.cols; ++j)
      gradient(i, j) = scale * (std::exp(logits(i, j) - log_total) - (j == target ? 1 : 0));
  }
  return gradient;
}

}  // namespace llmft::test::oracle
