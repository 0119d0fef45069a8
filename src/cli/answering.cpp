#include "answering.hpp"

#include <algorithm>
#include <filesystem>

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace {

constexpr int64_t kContext = 8192;

constexpr std::pair<const char*, std::optional<Precision>> kPrecisions[] = {{"auto", std::nullopt},
                                                                            {"fp32", Precision::fp32},
                                                                            {"tf32", Precision::tf32},
                                                                            {"fp16", Precision::fp16},
                                                                            {"bf16", Precision::bf16}};
constexpr std::pair<const char*, TemplateKind> kTemplates[] = {
    {"auto", TemplateKind::automatic}, {"llama3", TemplateKind::llama3}, {"plain", TemplateKind::plain}};

}  // namespace

void describe(OptionSet& set, AnsweringOptions& options) {
  set.add("model", options.model, "folder of the model, in Hugging Face's layout",
          {.flag = "--model", .value_name = "DIR"});
  set.add("adapter", options.adapter,
          "folder of a LoRA adapter (PEFT's, or runs/NAME/adapter): both answer, from one set of weights",
          {.flag = "--adapter", .value_name = "DIR"});
  set.add_enum<DeviceChoice>("device", options.device, kDeviceNames, "where to compute",
                             {.flag = "--device"});
  set.add_enum<std::optional<Precision>>("precision", options.precision, kPrecisions,
                                         "number formats; auto: bf16 on a GPU, fp32 on a CPU",
                                         {.flag = "--precision"});
  set.add_enum<TemplateKind>("template", options.chat_template, kTemplates,
                             "how a conversation becomes tokens; as in training", {.flag = "--template"});
  set.add("context", options.context,
          "longest prompt and answer together, in tokens; 0: 8192, or the model's own limit if less",
          {.flag = "--context", .min = 0, .max = 1 << 20});
  set.add("max_sequences", options.max_sequences, "answers generated at a time; 0: 64 on a GPU, 8 on a CPU",
          {.flag = "--max-sequences", .min = 0, .max = 4096});
  set.add("threads", options.threads, "CPU threads; 0: all cores this process may use",
          {.flag = "--threads", .min = 0, .max = 4096});
}

Answering load_answering(const AnsweringOptions& options, const char* command) {
  if (options.model.empty())
    user_error("--model: is needed (the folder of a model); see 'llmft {} --help'", command);
  Stopwatch watch;
  Answering answering;
  int64_t context = options.context;
  if (context == 0) context = std::min(kContext, load_llama_config(options.model).max_position_embeddings);
  answering.tokenizer = load_tokenizer(options.model);
  ChatTemplate chat(options.chat_template, *answering.tokenizer);
  bool gpu = options.device == DeviceChoice::cuda ||
             (options.device == DeviceChoice::automatic && !list_gpus().empty());
  EngineOptions engine;
  engine.source = {.model = options.model,
                   .adapter = options.adapter,
                   .device = options.device,
                   .precision = options.precision,
                   .threads = static_cast<int>(options.threads)};
  engine.max_context = context;
  engine.max_sequences = options.max_sequences > 0 ? options.max_sequences : gpu ? 64 : 8;
  engine.end_tokens = {static_cast<int32_t>(chat.end())};
  answering.engine = make_engine(engine, *answering.tokenizer);
  log::info("{}: {}{} loaded in {}; context {}, {} answers at a time", command, options.model,
            options.adapter.empty() ? "" : " with adapter " + options.adapter, human_seconds(watch.seconds()),
            answering.engine->max_context(), answering.engine->max_sequences());
  return answering;
}

}  // namespace llmft
