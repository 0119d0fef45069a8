#include "llmft/data/pipeline.hpp"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "output_folder.hpp"
#include "scan.hpp"
#include "shard_job.hpp"
#include "shard_making.hpp"
#include "stage_times.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr std::pair<const char*, TemplateKind> kTemplates[] = {
    {"auto", TemplateKind::automatic}, {"llama3", TemplateKind::llama3}, {"plain", TemplateKind::plain}};
constexpr std::pair<const char*, OnTooLong> kOnTooLong[] = {{"drop", OnTooLong::drop},
                                                            {"truncate", OnTooLong::truncate}};

// Everything that the shards' bytes depend on; nothing that they do not.
json settings_of(const Tokenizer& tokenizer, const std::string& template_name,
                 const PreprocessOptions& options, const Sources& sources) {
  json files = json::array();
  for (size_t i = 0; i < sources.files.size(); ++i)
    files.push_back({sources.files[i].name, sources.files[i].bytes, sources.hashes[i]});
  return {{"format_version", kShardFormatVersion},
          {"tokenizer_kind", tokenizer.kind()},
          {"tokenizer_hash", tokenizer.file_hash()},
          {"vocabulary_size", tokenizer.vocabulary_size()},
          {"template", template_name},
          {"max_length", options.max_length},
          {"on_too_long", options.on_too_long == OnTooLong::drop ? "drop" : "truncate"},
          {"validation", options.validation},
          {"rows_per_shard", options.rows_per_shard},
          {"sources", hash_bytes(files.dump())}};
}

Manifest::Lengths percentiles(const std::map<uint64_t, uint64_t>& lengths) {
  if (lengths.empty()) return {};
  uint64_t total = 0;
  for (auto& [length, count] : lengths) total += count;
  auto at = [&](uint64_t percent) {
    uint64_t rank = std::max<uint64_t>((total * percent + 99) / 100, 1);
    uint64_t seen = 0;
    for (auto& [length, count] : lengths)
      if ((seen += count) >= rank) return length;
    return lengths.rbegin()->first;
  };
  return {lengths.begin()->first, at(50), at(90), at(95), at(99), lengths.rbegin()->first};
}

// common: what both splits' manifests say.
Manifest make_manifest(Manifest common, const std::string& split,
                       const std::vector<ShardSummary>& summaries) {
  common.split = split;
  std::map<uint64_t, uint64_t> lengths;
  for (const ShardSummary& s : summaries) {
    common.shards.push_back(s.shard);
    common.kept += s.shard.rows;
    common.tokens += s.shard.tokens;
    common.loss_tokens += s.shard.loss_tokens;
    common.other_split += s.counts.other_split;
    common.truncated += s.counts.truncated;
    for (size_t i = 0; i < common.drops.size(); ++i) common.drops[i] += s.counts.drops[i];
    for (auto& [length, count] : s.lengths) lengths[length] += count;
  }
  common.lengths = percentiles(lengths);
  return common;
}

void print_split(const fs::path& folder, const Manifest& m) {
  log::info("{}: {} samples in {} shards, {} tokens, {} of them supervised", folder.string(), m.kept,
            m.shards.size(), m.tokens, m.loss_tokens);
  std::string cut;
  if (m.truncated > 0)
    cut = fmt::format("; {} were cut ({:.2f} %)", m.truncated,
                      100.0 * static_cast<double>(m.truncated) / static_cast<double>(m.kept));
  if (m.kept > 0)
    log::info("  tokens a sample: median {}, 90 % {}, 99 % {}, longest {}{}", m.lengths.p50, m.lengths.p90,
              m.lengths.p99, m.lengths.max, cut);
}

void print_summary(const fs::path& output, const Manifest& train, const std::optional<Manifest>& valid) {
  std::vector<std::string> drops;
  uint64_t dropped = 0;
  for (size_t i = 0; i < train.drops.size(); ++i) {
    dropped += train.drops[i];
    if (train.drops[i] > 0) drops.push_back(fmt::format("{} {}", train.drops[i], kDropReasonNames[i]));
  }
  log::info("{} rows read, template {}, {} dropped{}", train.rows, train.template_name, dropped,
            drops.empty() ? "" : fmt::format(" ({})", join(drops, ", ")));
  print_split(output, train);
  if (valid) {
    print_split(validation_folder(output), *valid);
    log::info("  {} of them are also among the training samples", valid->overlap);
  }
  if (train.kept == 0) log::warn("no sample was kept; look at the reasons above");
}

int64_t id_or_none(std::optional<TokenId> id) {
  return id ? static_cast<int64_t>(*id) : -1;
}

}  // namespace

void describe(OptionSet& set, PreprocessOptions& options) {
  set.add("preprocess.input", options.input,
          "Parquet or JSON lines (.jsonl, .jsonl.gz, .jsonl.zst): a file, a folder, or a pattern in quotes",
          {.flag = "--input", .value_name = "PATH"});
  set.add("preprocess.tokenizer", options.tokenizer,
          "the model's folder, its tokenizer.json, or tokenizer.model",
          {.flag = "--tokenizer", .value_name = "DIR_OR_FILE"});
  set.add("preprocess.output", options.output, "folder for the shards; OUT/valid gets the validation split",
          {.flag = "--output", .value_name = "DIR"});
  set.add_enum<TemplateKind>("preprocess.template", options.chat_template, kTemplates,
                             "how a sample is written; auto: llama3 where the tokenizer has its tokens",
                             {.flag = "--template"});
  set.add("preprocess.max_length", options.max_length, "longest sample, in tokens",
          {.flag = "--max-length", .min = 2, .max = 4294967295.0});
  set.add_enum<OnTooLong>("preprocess.on_too_long", options.on_too_long, kOnTooLong,
                          "what becomes of a longer one; a cut response has no end-of-turn token",
                          {.flag = "--on-too-long"});
  set.add("preprocess.validation", options.validation,
          "share of rows set apart for validation, chosen by a hash of their text",
          {.flag = "--validation", .min = 0, .max = 0.99});
  set.add("preprocess.rows_per_shard", options.rows_per_shard, "source rows a shard stands for",
          {.flag = "--rows-per-shard", .min = 1});
  set.add("preprocess.force", options.force, "replace shards that other input or settings made",
          {.flag = "--force"});
  set.add("preprocess.preview", options.preview, "print this many samples and write nothing",
          {.flag = "--preview", .min = 0});
  set.add("preprocess.verify", options.verify,
          "check a folder of shards and write nothing; with --input and --tokenizer, against its source too",
          {.flag = "--verify", .value_name = "DIR"});
}

Manifest preprocess(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options) {
  StageTimes times;
  Stopwatch since_start;
  // What every rank would refuse is tried on rank 0 alone first, so that it is said once.
  if (process.is_root()) ChatTemplate(options.chat_template, tokenizer);
  process.barrier();
  ChatTemplate chat(options.chat_template, tokenizer);
  Sources sources = share_sources(process, options.input, times);
  std::string settings = settings_of(tokenizer, chat.name(), options, sources).dump();
  std::string fingerprint = hash_bytes(settings);
  fs::path output = options.output;
  bool with_validation = options.validation > 0;

  std::string packed_state;
  if (process.is_root()) {
    FolderState found = prepare_output(output, with_validation, settings, fingerprint,
                                       options.force ? Overwrite::yes : Overwrite::no);
    packed_state = json({found.whole, found.finished}).dump();
  }
  json state = json::parse(process.broadcast(packed_state));
  if (state[0].get<bool>()) {
    log::info("{}: already whole, made from this input with these settings; nothing to do", output.string());
    return read_manifest(output);
  }
  auto finished = state[1].get<std::vector<uint64_t>>();
  if (!finished.empty()) log::info("{}: {} finished shards are kept", output.string(), finished.size());

  Scan scan = scan_sources(process, sources, times);
  ShardJob job{.train = {output, "train"},
               .valid = std::nullopt,
               .tokenizer_hash = tokenizer.file_hash(),
               .settings = settings,
               .fingerprint = fingerprint,
               .rows_per_shard = static_cast<uint64_t>(options.rows_per_shard),
               .rows = scan.rows};
  if (with_validation) job.valid = {validation_folder(output), "validation"};
  if (scan.rows == 0) {
    if (process.is_root()) user_error("{}: no rows in the input; check --input", options.input);
    process.barrier();
  }
  Summaries summaries = make_shards(process, tokenizer, options, sources, scan, job, finished, times);

  Manifest common;
  common.template_name = chat.name();
  common.fingerprint = fingerprint;
  common.tokenizer = {tokenizer.kind(),       tokenizer.file_hash(),           tokenizer.vocabulary_size(),
                      id_or_none(chat.bos()), id_or_none(find_eos(tokenizer)), chat.end()};
  common.settings = settings;
  for (size_t i = 0; i < sources.files.size(); ++i)
    common.sources.push_back({sources.files[i].name, sources.files[i].bytes, sources.hashes[i]});
  common.rows = scan.rows;
  common.overlap = summaries.overlap;
  Manifest train = make_manifest(common, job.train.split, summaries.train);
  std::optional<Manifest> valid;
  if (job.valid) valid = make_manifest(common, job.valid->split, summaries.valid);
  if (process.is_root()) {
    if (valid) write_file_atomic(job.valid->folder / "manifest.json", to_json(*valid));
    write_file_atomic(output / "manifest.json", to_json(train));
    print_summary(output, train, valid);
  }
  process.barrier();  // no rank leaves before the manifest is there
  times.wall = since_start.seconds();
  times.cpu = process_cpu_seconds();
  print_stage_times(process, times);
  return train;
}

}  // namespace llmft
