#include "llmft/eval/merge.hpp"

#include <algorithm>
#include <cmath>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/parallel.hpp"
#include "llmft/base/progress.hpp"
#include "llmft/base/text.hpp"
#include "llmft/data/chat_template.hpp"
#include "llmft/data/shard_set.hpp"
#include "llmft/eval/evaluation.hpp"
#include "llmft/generate/inference_model.hpp"
#include "llmft/model/model_folder.hpp"
#include "llmft/model/safetensors.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMostPositions = 256;  // of one prompt

DType output_type(const ExportOptions& o, const LlamaConfig& config) {
  std::string name = o.dtype != "model" ? o.dtype : config.torch_dtype;
  if (name == "fp32" || name == "float32") return DType::f32;
  if (name == "fp16" || name == "float16") return DType::f16;
  return DType::bf16;
}

void validate(const ExportOptions& o) {
  if (!o.merge)
    user_error(
        "export: nothing to do; give --merge to add an adapter into its model (the one thing export does)");
  if (o.model.empty())
    user_error("--model: no model folder given: the base model that the adapter was trained on");
  if (o.adapter.empty())
    user_error("--adapter: no adapter folder given; 'llmft train' writes <output>/adapter");
  if (!fs::exists(fs::path(o.adapter) / "adapter_config.json"))
    user_error(
        "{}: no adapter_config.json in it; give the adapter folder that 'llmft train' wrote "
        "(<output>/adapter)",
        o.adapter);
  if (o.output.empty()) user_error("--output: no folder given for the merged model");
  std::error_code error;
  if (fs::equivalent(o.output, o.model, error))
    user_error("--output: {} is the base model's folder; give another", o.output);
  if (fs::equivalent(o.output, o.adapter, error))
    user_error("--output: {} is the adapter's folder, and would be a model with an adapter; give another",
               o.output);
  if (!o.overwrite && fs::exists(fs::path(o.output) / "config.json"))
    user_error("{}: has a model already; give another --output, or --overwrite", o.output);
}

// The public tensors of a model, in the table's order.
struct Public {
  const PackedTensor* packed;
  const Member* member;
  std::vector<int64_t> shape;
};
std::vector<Public> public_tensors(const LlamaTensors& tensors) {
  std::vector<Public> out;
  for (const Block& block : tensors.blocks())
    for (const PackedTensor& packed : block.tensors)
      for (const Member& member : packed.members) {
        bool norm = packed.role == Role::attn_norm || packed.role == Role::mlp_norm ||
                    packed.role == Role::final_norm;
        out.push_back(
            {&packed, &member,
             norm ? std::vector<int64_t>{packed.cols} : std::vector<int64_t>{member.rows, packed.cols}});
      }
  return out;
}

std::vector<float> read(const TensorFolder& folder, const std::string& name,
                        const std::vector<int64_t>& shape) {
  int64_t numel = 1;
  for (int64_t n : shape) numel *= n;
  std::vector<float> values(static_cast<size_t>(numel));
  folder.read_f32(name, shape, values);
  return values;
}

// w += scale B A.
void add_adapter(Ops& ops, const TensorFolder& adapter, const Public& t, double scale,
                 std::vector<float>& w) {
  std::string stem = "base_model.model." + t.member->hf_name.substr(0, t.member->hf_name.size() - 6);
  int64_t rank = t.member->adapter_rank, rows = t.member->rows, cols = t.packed->cols;
  std::vector<float> a = read(adapter, stem + "lora_A.weight", {rank, cols});
  std::vector<float> b = read(adapter, stem + "lora_B.weight", {rows, rank});
  Tensor out = matrix_view(w.data(), rows, cols);
  ops.matmul(Layout::nn, matrix_view(b.data(), rows, rank), matrix_view(a.data(), rank, cols), out,
             static_cast<float>(scale), 1, out);
}

// Prompts and answers of the data, or a few sentences where none is given.
std::vector<std::vector<int32_t>> sample_tokens(const ExportOptions& o, const LlamaConfig& config) {
  std::vector<std::vector<int32_t>> out;
  if (!o.data.empty()) {
    ShardSet shards(o.data, {"", "", static_cast<uint64_t>(config.vocab_size)});
    for (uint64_t i = 0; i < std::min<uint64_t>(shards.size(), static_cast<uint64_t>(o.samples)); ++i)
      shards.append_tokens(i, out.emplace_back());
  } else {
    constexpr const char* kQuestions[] = {"What is the capital of France?",
                                          "Explain why the sky is blue in two sentences.",
                                          "Write a Python function that reverses a list.",
                                          "Translate to German: Good morning, how are you?",
                                          "Is 97 a prime number? Think step by step.",
                                          "Summarize: The cat sat on the mat and watched the rain.",
                                          "Give three tips for sleeping well.",
                                          "Who wrote Hamlet, and when?"};
    auto tokenizer = load_tokenizer(o.model);
    ChatTemplate chat(TemplateKind::automatic, *tokenizer);
    for (int64_t i = 0; i < std::min<int64_t>(o.samples, std::size(kQuestions)); ++i) {
      std::vector<TokenId> ids;
      chat.encode_prompt({"", kQuestions[i], ""}, ids);
      out.emplace_back(ids.begin(), ids.end());
    }
  }
  for (auto& tokens : out)
    if (static_cast<int64_t>(tokens.size()) > kMostPositions) tokens.resize(kMostPositions);
  return out;
}

class LogitsOf {
 public:
  explicit LogitsOf(const ModelSource& source, bool adapted)
      : model_(source),
        inference_(model_.tensors(), model_.recipe(), model_.ops(), model_.decode(), model_.store(),
                   {.max_rows = kMostPositions,
                    .logits_rows = kMostPositions,
                    .slots = 0,
                    .context = kMostPositions}),
        lists_(model_.device(), 4 * static_cast<size_t>(kMostPositions + 1) * sizeof(int32_t),
               MemoryPart::workspace),
        adapted_(adapted) {}

  // [tokens, V]
  std::vector<float> operator()(const std::vector<int32_t>& tokens) {
    auto n = static_cast<int32_t>(tokens.size());
    std::vector<int32_t> lists = tokens;
    for (int32_t i = 0; i < n; ++i) lists.push_back(i);
    lists.insert(lists.end(), tokens.size(), 1);
    lists.insert(lists.end(), {0, n});
    model_.device().copy_to_device(lists_.data(), lists.data(), lists.size() * sizeof(int32_t));
    auto list = [&](int64_t first, int64_t count) {
      return Indices{static_cast<const int32_t*>(lists_.data()) + first, count};
    };
    inference_.forward({.tokens = list(0, n),
                        .positions = list(n, n),
                        .cu_seqlens = list(3 * n, 2),
                        .adapted = adapted_ ? list(2 * n, n) : Indices{},
                        .whole = n,
                        .longest = n});
    Tensor logits = inference_.logits({nullptr, n});
    std::vector<float> out(static_cast<size_t>(logits.numel()));
    model_.device().copy_to_host(out.data(), logits.data, logits.bytes());
    model_.device().synchronize();
    return out;
  }

 private:
  LoadedModel model_;
  InferenceModel inference_;
  Buffer lists_;
  bool adapted_;
};

double log_sum_exp(const float* x, size_t n, float top) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i] - top));
  return static_cast<double>(top) + std::log(sum);
}

// Of the model that is replaced: readers take what an index names before model.safetensors.
void remove_weights_in_parts(const fs::path& folder) {
  fs::remove(folder / "model.safetensors.index.json");
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    if (name.starts_with("model-") && name.ends_with(".safetensors")) fs::remove(entry.path());
  }
}

void merge_adapter(const ExportOptions& o, const LlamaConfig& config) {
  AdapterSpec spec = read_adapter_config(o.adapter);
  LlamaTensors tensors(config, spec);
  TensorFolder source(o.model), adapter(fs::path(o.adapter) / "adapter_model.safetensors");
  DType type = output_type(o, config);
  std::vector<Public> all = public_tensors(tensors);
  std::vector<OutTensor> header;
  header.reserve(all.size());
  for (const Public& t : all) header.push_back({t.member->hf_name, safetensors_type(type), t.shape, nullptr});
  // what can be wrong with the input is found before the output is begun
  check_adapter_tensors(adapter, tensors);
  for (const Public& t : all) {
    source.get(t.member->hf_name, t.shape);
    if (t.member->adapter_rank == 0) continue;
    std::string stem = "base_model.model." + t.member->hf_name.substr(0, t.member->hf_name.size() - 6);
    adapter.get(stem + "lora_A.weight", {t.member->adapter_rank, t.packed->cols});
    adapter.get(stem + "lora_B.weight", {t.member->rows, t.member->adapter_rank});
  }

  fs::path output = o.output;
  make_writable_folder(output);
  remove_weights_in_parts(output);
  auto device = make_cpu_device();
  auto threads = static_cast<int>(o.threads > 0 ? o.threads : usable_cores());
  auto ops = make_cpu_ops(*device, MatmulMode::f32, threads);
  {
    SafetensorsWriter writer(output / "model.safetensors", header, {{"format", "pt"}});
    Progress progress("merge", all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      std::vector<float> w = read(source, all[i].member->hf_name, all[i].shape);
      if (all[i].member->adapter_rank > 0) add_adapter(*ops, adapter, all[i], spec.scale(), w);
      std::vector<std::byte> bytes(w.size() * size_of(type));
      if (type == DType::f32)
        std::copy_n(reinterpret_cast<const std::byte*>(w.data()), bytes.size(), bytes.data());
      else if (type == DType::bf16)
        convert(std::span<const float>(w), std::span(reinterpret_cast<Bf16*>(bytes.data()), w.size()));
      else
        convert(std::span<const float>(w), std::span(reinterpret_cast<F16*>(bytes.data()), w.size()));
      writer.write(bytes);
      progress.update(i, all[i].member->hf_name);
    }
    progress.finish("");
    writer.finish();
  }
  fs::path model = o.model;
  copy_beside_weights(model, output);
  write_file_atomic(output / "config.json", config_json_with_dtype(read_file(model / "config.json"), type));
}

// What the merged model says beside base and adapter.
struct Fidelity {
  int64_t positions = 0;
  double kl = 0;  // nats a position: of the merged model's next-token distribution from base + adapter's
  double agreement = 0;  // share of positions whose likeliest token is the same
};
Fidelity merged_fidelity(const ExportOptions& o, const LlamaConfig& config,
                         const std::vector<std::vector<int32_t>>& samples) {
  auto source = [&](const std::string& model, const std::string& adapter) {
    return ModelSource{.model = model,
                       .adapter = adapter,
                       .device = o.device,
                       .precision = precision_of(o.precision),
                       .threads = static_cast<int>(o.threads)};
  };
  LogitsOf merged(source(o.output, ""), false), wanted(source(o.model, o.adapter), true);
  Fidelity result;
  auto vocabulary = static_cast<size_t>(config.vocab_size);
  for (const auto& tokens : samples) {
    std::vector<float> got = merged(tokens), expected = wanted(tokens);
    for (size_t t = 0; t < tokens.size(); ++t) {
      const float *p = expected.data() + t * vocabulary, *q = got.data() + t * vocabulary;
      auto top_p = static_cast<size_t>(std::max_element(p, p + vocabulary) - p);
      auto top_q = static_cast<size_t>(std::max_element(q, q + vocabulary) - q);
      double sum_p = log_sum_exp(p, vocabulary, p[top_p]), sum_q = log_sum_exp(q, vocabulary, q[top_q]);
      for (size_t i = 0; i < vocabulary; ++i) {
        double log_p = static_cast<double>(p[i]) - sum_p, log_q = static_cast<double>(q[i]) - sum_q;
        result.kl += std::exp(log_p) * (log_p - log_q);
      }
      result.agreement += top_p == top_q;
      ++result.positions;
    }
  }
  if (result.positions > 0) {
    result.kl /= static_cast<double>(result.positions);
    result.agreement /= static_cast<double>(result.positions);
  }
  return result;
}

}  // namespace

void describe(OptionSet& set, ExportOptions& o) {
  set.add("merge", o.merge, "add the adapter into the model's weights", {.flag = "--merge"});
  set.add("model", o.model, "base model folder in Hugging Face form",
          {.flag = "--model", .value_name = "DIR"});
  set.add("adapter", o.adapter, "PEFT adapter folder", {.flag = "--adapter", .value_name = "DIR"});
  set.add("output", o.output, "folder to make: the merged model", {.flag = "--output", .value_name = "DIR"});
  set.add("dtype", o.dtype, "type of the written weights; model: that of the base model",
          {.flag = "--dtype", .choices = {"model", "fp32", "bf16", "fp16"}});
  set.add("data", o.data, "shard folder whose first samples are compared; empty: built-in questions",
          {.flag = "--data", .value_name = "DIR"});
  set.add("samples", o.samples, "samples compared between merged and base + adapter; 0: no comparison",
          {.flag = "--samples", .min = 0, .max = 10000});
  set.add("overwrite", o.overwrite, "replace a model that is already there", {.flag = "--overwrite"});
  set.add_enum<DeviceChoice>("device", o.device, kDeviceNames, "where the comparison computes",
                             {.flag = "--device"});
  set.add("precision", o.precision, "number formats of the comparison; auto: bf16 on a GPU, fp32 on a CPU",
          {.flag = "--precision", .choices = precision_choices()});
  set.add("threads", o.threads, "CPU threads; 0: all that this process may use", {.min = 0, .max = 1024});
}

void run_merge(const ExportOptions& o) {
  validate(o);
  LlamaConfig config = load_llama_config(o.model);
  std::vector<std::vector<int32_t>> samples;
  if (o.samples != 0)
    samples = sample_tokens(o, config);  // what is wrong with them is found before the merge
  merge_adapter(o, config);
  log::info("merged model in {}", o.output);
  if (o.samples == 0) return;
  Fidelity f = merged_fidelity(o, config, samples);
  fmt::print(
      "merged against base + adapter: KL {:.3g} nats a position, greedy agreement {:.2f} % of {} positions\n",
      f.kl, 100 * f.agreement, f.positions);
}

}  // namespace llmft
