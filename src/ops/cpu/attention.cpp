// A document's products read that document's rows alone, so neither its outputs nor its gradients can depend
// on its neighbours, not even by a zero times something. Queries are taken in blocks: a block's scores
// against the keys up to its last query are one small matrix.
#include <algorithm>
#include <cmath>

#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "exp.hpp"
#include "lanes.hpp"
#include "rows.hpp"

namespace llmft {
namespace {

constexpr int64_t kBlock = 64;  // queries a block

void check_documents(Indices cu_seqlens, int64_t tokens) {
  check(cu_seqlens.data[0] == 0 && cu_seqlens.data[cu_seqlens.size - 1] == tokens,
        "attention: cu_seqlens do not cover the tokens");
  for (int64_t i = 1; i < cu_seqlens.size; ++i)
    check(cu_seqlens.data[i - 1] <= cu_seqlens.data[i], "attention: cu_seqlens go down");
}

struct Block {
  int64_t head;
  int64_t begin;    // first token of the document
  int64_t first;    // first query
  int64_t queries;  // tokens first .. first + queries
  int64_t keys;     // tokens begin .. begin + keys, up to the block's last query

  // Query i of the block sees this many keys.
  int64_t seen(int64_t i) const { return first + i - begin + 1; }
};

template <class Visit>
void for_each_block(const AttentionShape& shape, Indices cu_seqlens, Visit&& visit) {
  for (int64_t document = 0; document + 1 < cu_seqlens.size; ++document) {
    int64_t begin = cu_seqlens.data[document], end = cu_seqlens.data[document + 1];
    for (int64_t head = 0; head < shape.heads; ++head)
      for (int64_t first = begin; first < end; first += kBlock) {
        int64_t queries = std::min(kBlock, end - first);
        visit(Block{head, begin, first, queries, first + queries - begin});
      }
  }
}

int64_t longest_document(Indices cu_seqlens) {
  int64_t longest = 0;
  for (int64_t i = 1; i < cu_seqlens.size; ++i)
    longest = std::max<int64_t>(longest, cu_seqlens.data[i] - cu_seqlens.data[i - 1]);
  return longest;
}

// The rows of q-like x that are the block's queries, of k-like x that are its keys; its head's columns.
Tensor queries_of(const Tensor& x, const Block& block, const AttentionShape& shape) {
  return x.row_range(block.first, block.queries).col_range(block.head * shape.head_dim, shape.head_dim);
}
Tensor keys_of(const Tensor& x, const Block& block, const AttentionShape& shape) {
  int64_t kv_head = block.head / (shape.heads / shape.kv_heads);
  return x.row_range(block.begin, block.keys).col_range(kv_head * shape.head_dim, shape.head_dim);
}

float score_scale(const AttentionShape& shape) {
  return 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
}

void fill_zero(const Tensor& x) {
  for (int64_t i = 0; i < x.rows; ++i) std::fill_n(x.row<float>(i), x.cols, 0.0f);
}

}  // namespace

void CpuOps::attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out, const Tensor& lse) {
  shapes::attention(shape, cu_seqlens, q, k, v, out, lse);
  check_documents(cu_seqlens, q.rows);
  Tensor q32 = as_f32(q, 0), k32 = as_f32(k, 1), v32 = as_f32(v, 2), out32 = f32_like(out, 3);
  float* p_block = scratch(4, kBlock * longest_document(cu_seqlens));
  float scale = score_scale(shape);

  for_each_block(shape, cu_seqlens, [&](const Block& block) {
    Tensor p = matrix_view(p_block, block.queries, block.keys);
    product(Layout::nt, queries_of(q32, block, shape), keys_of(k32, block, shape), p, scale, 0);
    float total[kBlock];
    for (int64_t i = 0; i < block.queries; ++i) {
      float* row = p.row<float>(i);
      int64_t seen = block.seen(i);
      float top = largest(row, seen);
      for (int64_t j = 0; j < seen; ++j) row[j] = exp_f32(row[j] - top);
      std::fill(row + seen, row + block.keys, 0.0f);
      total[i] = sum_terms<float>(seen, [=](int64_t j) { return row[j]; });
      lse.row<float>(block.first + i)[block.head] = top + std::log(total[i]);
    }
    Tensor block_out = queries_of(out32, block, shape);
    product(Layout::nn, p, keys_of(v32, block, shape), block_out, 1, 0);
    for (int64_t i = 0; i < block.queries; ++i) {
      float* row = block_out.row<float>(i);
      for (int64_t c = 0; c < shape.head_dim; ++c) row[c] /= total[i];
    }
  });
  if (out32.data != out.data) store_matrix(out32, out);
}

// With P = exp(scale Q K^T - lse): dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)), dQ = scale dS K,
// dK = scale dS^T Q (Dao et al. 2022, appendix B). Heads of a group add to their dK, dV in ascending order.
void CpuOps::attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q,
                                const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                                const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                const Rotation& rotation) {
  shapes::attention_backward(shape, cu_seqlens, q, k, v, out, lse, dout, dq, dk, dv);
  check_documents(cu_seqlens, q.rows);
  Tensor q32 = as_f32(q, 0), k32 = as_f32(k, 1), v32 = as_f32(v, 2), out32 = as_f32(out, 3);
  Tensor dout32 = as_f32(dout, 4), dq32 = f32_like(dq, 5), dk32 = f32_like(dk, 6), dv32 = f32_like(dv, 7);
  int64_t block_size = kBlock * longest_document(cu_seqlens);
  float* p_block = scratch(8, block_size);
  float* ds_block = scratch(9, block_size);
  float scale = score_scale(shape);
  fill_zero(dk32);
  fill_zero(dv32);

  for_each_block(shape, cu_seqlens, [&](const Block& block) {
    Tensor p = matrix_view(p_block, block.queries, block.keys);
    Tensor ds = matrix_view(ds_block, block.queries, block.keys);
    Tensor block_q = queries_of(q32, block, shape), block_k = keys_of(k32, block, shape);
    Tensor block_out = queries_of(out32, block, shape), block_dout = queries_of(dout32, block, shape);
    product(Layout::nt, block_q, block_k, p, scale, 0);
    product(Layout::nt, block_dout, keys_of(v32, block, shape), ds, 1, 0);
    for (int64_t i = 0; i < block.queries; ++i) {
      float* p_row = p.row<float>(i);
      float* ds_row = ds.row<float>(i);
      int64_t seen = block.seen(i);
      float log_total = lse.row<float>(block.first + i)[block.head];
      float mean = dot(block_dout.row<float>(i), block_out.row<float>(i), shape.head_dim);
      for (int64_t j = 0; j < seen; ++j) {
        p_row[j] = exp_f32(p_row[j] - log_total);
        ds_row[j] = p_row[j] * (ds_row[j] - mean);
      }
      std::fill(p_row + seen, p_row + block.keys, 0.0f);
      std::fill(ds_row + seen, ds_row + block.keys, 0.0f);
    }
    product(Layout::nn, ds, block_k, queries_of(dq32, block, shape), scale, 0);
    product(Layout::tn, ds, block_q, keys_of(dk32, block, shape), scale, 1);
    product(Layout::tn, p, block_dout, keys_of(dv32, block, shape), 1, 1);
  });
  if (dq32.data != dq.data) {
    store_matrix(dq32, dq);
    store_matrix(dk32, dk);
    store_matrix(dv32, dv);
  }
  if (!rotation.table) return;
  rope(dq, rotation.positions, rotation.table, Direction::backward);
  rope(dk, rotation.positions, rotation.table, Direction::backward);
}

}  // namespace llmft
