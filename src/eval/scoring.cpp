#include "scoring.hpp"

#include <algorithm>

#include "llmft/base/progress.hpp"
#include "llmft/generate/inference_model.hpp"

namespace llmft {
namespace {

constexpr int64_t kLogitsRows = 512;

struct Pack {
  std::vector<int32_t> tokens, positions, bounds{0}, rows, targets;
  std::vector<size_t> samples;     // as numbered in the list
  std::vector<size_t> first_rows;  // of each sample among rows
};

// Lists of one pack, on the device.
class DeviceLists {
 public:
  DeviceLists(Device& device, int64_t tokens)
      : device_(device),
        ints_(device, 6 * static_cast<size_t>(tokens + 1) * sizeof(int32_t), MemoryPart::workspace) {}

  // Until start() is called again.
  Indices put(const std::vector<int32_t>& values) {
    auto* to = static_cast<int32_t*>(ints_.data()) + used_;
    device_.copy_to_device(to, values.data(), values.size() * sizeof(int32_t));
    used_ += values.size();
    return {to, static_cast<int64_t>(values.size())};
  }
  void start() { used_ = 0; }

 private:
  Device& device_;
  Buffer ints_;
  size_t used_ = 0;
};

}  // namespace

std::vector<SampleLoss> sample_losses(LoadedModel& model, const ShardSet& shards,
                                      const std::vector<uint64_t>& samples, int64_t pack_tokens) {
  std::vector<SampleLoss> out(samples.size());
  if (samples.empty()) return out;
  InferenceModel inference(
      model.tensors(), model.recipe(), model.ops(), model.decode(), model.store(),
      {.max_rows = pack_tokens, .logits_rows = kLogitsRows, .slots = 0, .context = pack_tokens});
  DeviceLists lists(model.device(), pack_tokens);
  Buffer losses(model.device(), static_cast<size_t>(pack_tokens) * sizeof(float), MemoryPart::workspace);
  Progress progress("perplexity", samples.size());

  auto score = [&](const Pack& pack) {
    auto count = static_cast<int64_t>(pack.rows.size());
    if (count == 0) return;
    lists.start();
    RowBatch batch{.tokens = lists.put(pack.tokens),
                   .positions = lists.put(pack.positions),
                   .cu_seqlens = lists.put(pack.bounds),
                   .whole = static_cast<int64_t>(pack.tokens.size()),
                   .longest = pack_tokens};
    Indices rows = lists.put(pack.rows), targets = lists.put(pack.targets);
    Indices all = lists.put(std::vector<int32_t>(pack.tokens.size(), 1));
    for (bool adapted : {false, true}) {
      if (adapted && !model.has_adapter()) continue;
      batch.adapted = adapted ? all : Indices{};
      inference.forward(batch);
      inference.losses(rows, targets, losses.view(DType::f32, 1, count));
      std::vector<float> values(pack.rows.size());
      model.device().copy_to_host(values.data(), losses.data(), values.size() * sizeof(float));
      model.device().synchronize();
      for (size_t s = 0; s < pack.samples.size(); ++s) {
        size_t end = s + 1 < pack.samples.size() ? pack.first_rows[s + 1] : values.size();
        SampleLoss& loss = out[pack.samples[s]];
        for (size_t i = pack.first_rows[s]; i < end; ++i) (adapted ? loss.adapted : loss.base) += values[i];
      }
    }
  };

  Pack pack;
  for (size_t s = 0; s < samples.size(); ++s) {
    uint64_t sample = samples[s];
    if (!pack.samples.empty() &&
        static_cast<int64_t>(pack.tokens.size() + shards.length(sample)) > pack_tokens) {
      score(pack);
      pack = {};
      progress.update(s, "");
    }
    auto base = static_cast<int32_t>(pack.tokens.size());
    shards.append_tokens(sample, pack.tokens);
    pack.samples.push_back(s);
    pack.first_rows.push_back(pack.rows.size());
    for (uint32_t i = 0; i < shards.length(sample); ++i) {
      pack.positions.push_back(static_cast<int32_t>(i));
      if (i < shards.loss_start(sample)) continue;
      pack.rows.push_back(base + static_cast<int32_t>(i) - 1);
      pack.targets.push_back(pack.tokens[static_cast<size_t>(base) + i]);
    }
    pack.bounds.push_back(static_cast<int32_t>(pack.tokens.size()));
  }
  score(pack);
  progress.finish("");
  return out;
}

}  // namespace llmft
