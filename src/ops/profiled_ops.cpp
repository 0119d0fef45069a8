#include "llmft/ops/profiled_ops.hpp"

#include <initializer_list>

namespace llmft {
namespace {

double bytes_of(std::initializer_list<const Tensor*> tensors) {
  double total = 0;
  for (const Tensor* x : tensors)
    if (*x) total += static_cast<double>(x->bytes());
  return total;
}

double product_flops(const Tensor& d, int64_t inner) {
  return 2.0 * static_cast<double>(d.rows) * static_cast<double>(d.cols) * static_cast<double>(inner);
}

double width_of(const AttentionShape& shape) {
  return static_cast<double>(shape.heads * shape.head_dim);
}

}  // namespace

ProfiledOps::ProfiledOps(std::unique_ptr<Ops> inner, std::vector<NamedLinear> linears)
    : inner_(std::move(inner)), linears_(std::move(linears)) {}

std::string ProfiledOps::product_name(Layout layout, const Tensor& b, const Tensor& d) const {
  for (const NamedLinear& l : linears_) {
    if (layout == Layout::nt && b.rows == l.rows && b.cols == l.cols + l.extension)
      return l.name + " forward";
    if (layout == Layout::nn && b.rows == l.rows + l.extension && b.cols == l.cols) return l.name + " dgrad";
    if (layout == Layout::tn && d.rows == l.rows && d.cols == l.cols) return l.name + " wgrad";
  }
  return "adapter products";
}

void ProfiledOps::embed(Indices tokens, const Tensor& table, const Tensor& x) {
  auto s = scope("embedding", 0, 2 * bytes_of({&x}));
  inner_->embed(tokens, table, x);
}

void ProfiledOps::embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) {
  auto s = scope("embedding backward", 0, bytes_of({&dx}) * (1 + 2.0 * sizeof(float) / size_of(dx.dtype)));
  inner_->embed_backward(tokens, dx, dtable);
}

void ProfiledOps::norm(const Tensor& x, const Tensor& w, float eps, const Tensor& a, const Tensor& y,
                       const Tensor& rstd) {
  double flops = a ? 2.0 * static_cast<double>(x.numel() * a.rows) : 0;
  auto s = scope("norm forward", flops, bytes_of({&x, &w, &a, &y, &rstd}));
  inner_->norm(x, w, eps, a, y, rstd);
}

void ProfiledOps::norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd,
                                const Tensor& b, const Tensor& dx, const Tensor& dw) {
  double flops = b ? 2.0 * static_cast<double>(x.numel() * b.cols) : 0;
  auto s = scope("norm backward", flops, bytes_of({&dy, &x, &w, &rstd, &b, &dx, &dx, &dw, &dw}));
  inner_->norm_backward(dy, x, w, rstd, b, dx, dw);
}

void ProfiledOps::matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha,
                         float beta, const Tensor& c) {
  int64_t inner_size = layout == Layout::tn ? a.rows : a.cols;
  auto s = scope(product_name(layout, b, d), product_flops(d, inner_size),
                 bytes_of({&a, &b, &d}) + (beta != 0 ? bytes_of({&c}) : 0));
  inner_->matmul(layout, a, b, d, alpha, beta, c);
}

void ProfiledOps::rope(const Tensor& x, Indices positions, const Tensor& table, Direction direction) {
  auto s = scope(direction == Direction::forward ? "rope forward" : "rope backward", 0, 2 * bytes_of({&x}));
  inner_->rope(x, positions, table, direction);
}

// Products of queries with keys and of probabilities with values, causal.
void ProfiledOps::attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                            const Tensor& v, const Tensor& out, const Tensor& lse) {
  auto s = scope("attention forward", 4 * pairs_ * width_of(shape), bytes_of({&q, &k, &v, &out, &lse}));
  inner_->attention(shape, cu_seqlens, q, k, v, out, lse);
}

// Five products: scores again, dP, dV, dQ, dK.
void ProfiledOps::attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q,
                                     const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                                     const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                     const Rotation& rotation) {
  auto s = scope("attention backward", 10 * pairs_ * width_of(shape),
                 bytes_of({&q, &k, &v, &out, &lse, &dout, &dq, &dk, &dv}));
  inner_->attention_backward(shape, cu_seqlens, q, k, v, out, lse, dout, dq, dk, dv, rotation);
}

void ProfiledOps::swiglu(const Tensor& gate_up, const Tensor& h) {
  auto s = scope("swiglu forward", 0, bytes_of({&gate_up, &h}));
  inner_->swiglu(gate_up, h);
}

void ProfiledOps::swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h) {
  auto s = scope("swiglu backward", 0, bytes_of({&dh, &gate_up, &gate_up, &h}));
  inner_->swiglu_backward(dh, gate_up, h);
}

void ProfiledOps::matmul_swiglu(const Tensor& x, const Tensor& w, const Tensor& gate_up, const Tensor& h) {
  auto s = scope("gate_up forward, swiglu", product_flops(gate_up, x.cols), bytes_of({&x, &w, &gate_up, &h}));
  inner_->matmul_swiglu(x, w, gate_up, h);
}

void ProfiledOps::matmul_swiglu_backward(const Tensor& dy, const Tensor& w, const Tensor& gate_up,
                                         const Tensor& dh, const Tensor& h) {
  auto s = scope("down dgrad, swiglu backward", product_flops(dh, dy.cols),
                 bytes_of({&dy, &w, &gate_up, &gate_up, &h}));
  inner_->matmul_swiglu_backward(dy, w, gate_up, dh, h);
}

void ProfiledOps::gather_rows(const Tensor& x, Indices rows, const Tensor& y) {
  auto s = scope("rows gathered and scattered", 0, 2 * bytes_of({&y}));
  inner_->gather_rows(x, rows, y);
}

void ProfiledOps::scatter_rows(const Tensor& y, Indices rows, const Tensor& x) {
  auto s = scope("rows gathered and scattered", 0, bytes_of({&y, &x}));
  inner_->scatter_rows(y, rows, x);
}

void ProfiledOps::cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss,
                                LossMode mode, const Tensor& loss_scale) {
  double passes = mode == LossMode::loss_and_gradient ? 2 : 1;
  auto s = scope("cross-entropy", 0, passes * bytes_of({&logits}));
  inner_->cross_entropy(logits, targets, scale, loss, mode, loss_scale);
}

void ProfiledOps::convert(const Tensor& from, const Tensor& to, float scale) {
  auto s = scope("conversions and sums", 0, bytes_of({&from, &to}));
  inner_->convert(from, to, scale);
}

void ProfiledOps::convert_each(std::span<const Conversion> list) {
  double bytes = 0;
  for (const Conversion& c : list) bytes += bytes_of({&c.from, &c.to});
  auto s = scope("conversions and sums", 0, bytes);
  inner_->convert_each(list);
}

void ProfiledOps::add(const Tensor& from, const Tensor& to) {
  auto s = scope("conversions and sums", 0, bytes_of({&from, &to, &to}));
  inner_->add(from, to);
}

void ProfiledOps::chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out) {
  auto s = scope("gradient norm", 0, bytes_of({&x, &out}));
  inner_->chunk_sum_squares(x, chunk, out);
}

void ProfiledOps::sum(const Tensor& x, const Tensor& out) {
  auto s = scope("conversions and sums", 0, bytes_of({&x, &out}));
  inner_->sum(x, out);
}

void ProfiledOps::advance_update(const UpdateRule& rule, const Tensor& sum_squares, const Tensor& state) {
  auto s = scope("gradient norm", 0, bytes_of({&sum_squares, &state}));
  inner_->advance_update(rule, sum_squares, state);
}

void ProfiledOps::adamw(const AdamWParams& params, const Tensor& state, const Tensor& p, const Tensor& m,
                        const Tensor& v, const Tensor& grad, const Tensor& copy) {
  auto s = scope("adamw", 0, 2 * bytes_of({&p, &m, &v}) + bytes_of({&grad, &copy}));
  inner_->adamw(params, state, p, m, v, grad, copy);
}

}  // namespace llmft
