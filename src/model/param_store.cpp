#include "llmft/model/param_store.hpp"

namespace llmft {

WeightLease::WeightLease(ParamStore& store, int block, Tensor frozen, Tensor trained)
    : store_(store), block_(block), frozen_(frozen), trained_(trained) {}

WeightLease::~WeightLease() {
  store_.release(block_);
}

Tensor WeightLease::operator[](Role role) const {
  const LlamaTensors& table = store_.tensors();
  const PackedTensor& t = table.block(block_).tensor(role);
  const Tensor& flat = table.full_fine_tuning() ? trained_ : frozen_;
  return flat.col_range(t.offset, t.stored_rows() * t.stored_cols())
      .reshaped(t.stored_rows(), t.stored_cols());
}

Tensor ParamStore::gradient(int block, size_t trainable) const {
  const Trainable& t = tensors().block(block).trainables[trainable];
  return gradient_flat(block).col_range(t.offset, t.numel()).reshaped(t.rows, t.cols);
}

}  // namespace llmft
