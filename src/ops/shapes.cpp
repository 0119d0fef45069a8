#include "shapes.hpp"

namespace llmft::shapes {
namespace {

bool same_shape(const Tensor& a, const Tensor& b) {
  return a.rows == b.rows && a.cols == b.cols;
}

}  // namespace

void embed(Indices tokens, const Tensor& table, const Tensor& x) {
  check(x.rows == tokens.size && x.cols == table.cols, "embed: shapes differ");
  check(x.dtype == table.dtype, "embed: dtypes differ");
}

void embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) {
  check(dx.rows == tokens.size && dx.cols == dtable.cols, "embed_backward: shapes differ");
  check(dtable.dtype == DType::f32, "embed_backward: the table's gradient is not f32");
}

void norm(const Tensor& x, const Tensor& w, const Tensor& a, const Tensor& y, const Tensor& rstd) {
  int64_t width = x.cols, tail = a ? a.rows : 0;
  check(w.numel() == width && y.rows == x.rows && y.cols == width + tail && rstd.numel() == x.rows &&
            (!a || a.cols == width),
        "norm: shapes differ");
  check(w.dtype == x.dtype && y.dtype == x.dtype, "norm: dtypes differ");
}

void norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd, const Tensor& b,
                   const Tensor& dx, const Tensor& dw) {
  int64_t width = x.cols, tail = b ? b.cols : 0;
  check(w.numel() == width && dy.rows == x.rows && dy.cols == width && rstd.numel() == x.rows &&
            dx.rows == x.rows && dx.cols == width + tail && (!b || b.rows == width) &&
            (!dw || dw.numel() == width),
        "norm_backward: shapes differ");
  check(w.dtype == x.dtype && dy.dtype == x.dtype && dx.dtype == x.dtype, "norm_backward: dtypes differ");
}

void matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float beta, const Tensor& c) {
  bool a_rows = layout != Layout::tn, b_rows = layout == Layout::nt;  // M or N counts rows, not columns
  check((a_rows ? a.rows : a.cols) == d.rows && (b_rows ? b.rows : b.cols) == d.cols &&
            (b_rows ? b.cols : b.rows) == (a_rows ? a.cols : a.rows),
        "matmul: shapes differ");
  check(a.dtype == b.dtype && (d.dtype == a.dtype || d.dtype == DType::f32), "matmul: dtypes differ");
  if (beta != 0) check(same_shape(c, d) && c.dtype == d.dtype, "matmul: C is not like D");
}

void rope(const Tensor& x, Indices positions, const Tensor& table) {
  int64_t dim = table.cols;
  check(positions.size == x.rows && dim > 0 && dim % 2 == 0 && x.cols % dim == 0, "rope: shapes differ");
  check(table.dtype == DType::f32, "rope: the table is not f32");
}

void attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
               const Tensor& v, const Tensor& out, const Tensor& lse) {
  int64_t tokens = q.rows, q_width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  check(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0, "attention: kv_heads must divide heads");
  check(q.cols == q_width && same_shape(out, q) && k.rows == tokens && k.cols == kv_width &&
            same_shape(v, k) && lse.rows == tokens && lse.cols == shape.heads,
        "attention: shapes differ");
  check(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype && lse.dtype == DType::f32,
        "attention: dtypes differ");
  check(cu_seqlens.size >= 1, "attention: cu_seqlens are empty");
}

void attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& dout,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  attention(shape, cu_seqlens, q, k, v, out, lse);
  attention(shape, cu_seqlens, dq, dk, dv, dout, lse);
  check(dq.dtype == q.dtype && dq.rows == q.rows, "attention_backward: gradients differ from inputs");
}

void swiglu(const Tensor& gate_up, const Tensor& h) {
  check(gate_up.rows == h.rows && gate_up.cols == 2 * h.cols, "swiglu: shapes differ");
  check(gate_up.dtype == h.dtype, "swiglu: dtypes differ");
}

void swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h) {
  check(gate_up.rows == dh.rows && gate_up.cols == 2 * dh.cols, "swiglu_backward: shapes differ");
  check(gate_up.dtype == dh.dtype, "swiglu_backward: dtypes differ");
  check(!h || (same_shape(h, dh) && h.dtype == dh.dtype), "swiglu_backward: h differs");
}

void gather_rows(const Tensor& x, Indices rows, const Tensor& y) {
  check(y.rows == rows.size && y.cols == x.cols && y.dtype == x.dtype, "gather_rows: shapes differ");
}

void scatter_rows(const Tensor& y, Indices rows, const Tensor& x) {
  check(y.rows == rows.size && y.cols == x.cols && y.dtype == x.dtype, "scatter_rows: shapes differ");
}

void cross_entropy(const Tensor& logits, Indices targets, const Tensor& loss) {
  check(targets.size == logits.rows && loss.numel() == logits.rows, "cross_entropy: shapes differ");
}

void convert(const Tensor& from, const Tensor& to) {
  check(same_shape(from, to), "convert: shapes differ");
}

void add(const Tensor& from, const Tensor& to) {
  check(same_shape(from, to), "add: shapes differ");
  check(from.dtype == DType::f32 && to.dtype == DType::f32, "add: not f32");
}

void chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out) {
  check(x.contiguous() && chunk > 0, "chunk_sum_squares: not a flat row in chunks");
  check(out.contiguous() && out.numel() == (x.numel() + chunk - 1) / chunk,
        "chunk_sum_squares: wrong number of chunks");
}

void sum(const Tensor& x, const Tensor& out) {
  check(x.contiguous() && out.numel() == 1, "sum: not a flat row into one number");
}

void advance_update(const Tensor& sum_squares, const Tensor& state) {
  check(sum_squares.contiguous() && state.numel() == kUpdateFields, "advance_update: shapes differ");
}

void adamw(const Tensor& state, const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& grad,
           const Tensor& copy) {
  int64_t size = p.numel();
  check(m.numel() == size && v.numel() == size && grad.numel() == size, "adamw: sizes differ");
  check(p.contiguous() && m.contiguous() && v.contiguous() && grad.contiguous(), "adamw: not flat rows");
  check(state.numel() == kUpdateFields, "adamw: not an update state");
  check(!copy || (copy.contiguous() && copy.numel() == size), "adamw: the copy differs");
}

}  // namespace llmft::shapes
