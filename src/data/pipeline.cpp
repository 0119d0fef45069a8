#include "llmft/data/pipeline.hpp"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "duplicates.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "output_folder.hpp"
#include "shard_job.hpp"
#include "shard_making.hpp"
#include "sources.hpp"
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
  json settings = {{"format_version", kShardFormatVersion},
                   {"tokenizer_kind", tokenizer.kind()},
                   {"tokenizer_hash", tokenizer.file_hash()},
                   {"vocabulary_size", tokenizer.vocabulary_size()},
                   {"template", template_name},
                   {"max_length", options.max_length},
                   {"on_too_long", options.on_too_long == OnTooLong::drop ? "drop" : "truncate"},
                   {"validation", options.validation},
                   {"rows_per_shard", options.rows_per_shard},
                   {"sources", hash_bytes(files.dump())}};
  // left out where it says nothing: shards from before there was such an option stay valid
  if (options.min_length > 0) settings["min_length"] = options.min_length;
  return settings;
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

// A split's shards and their sums on every rank, the same.
struct SharedSplit {
  std::vector<Manifest::Shard> shards;
  SplitTotals totals;
};

json pack(const Manifest::Shard& s) {
  return {s.file, s.bytes, s.rows, s.tokens, s.loss_tokens, s.hash};
}

SplitTotals share_totals(const Process& process, const SplitTotals& mine) {
  json lengths = json::array();
  for (auto& [length, count] : mine.lengths) lengths.push_back({length, count});
  const ShardCounts& c = mine.counts;
  json packed = {mine.samples, mine.tokens, mine.loss_tokens, c.drops, c.other_split, c.truncated, lengths};
  SplitTotals all;
  for (const std::string& text : process.all_gather(packed.dump())) {
    json j = json::parse(text);
    SplitTotals part{j[0], j[1], j[2], {j[3].get<DropCounts>(), j[4], j[5]}, {}};
    for (const json& entry : j[6]) part.lengths[entry[0]] = entry[1];
    all.add(part);
  }
  return all;
}

std::vector<SharedSplit> share(const Process& process, const ShardJob& job, const MadeShards& made) {
  std::vector<SharedSplit> out(job.splits.size());
  json packed = json::array();
  for (auto& [shard, files] : made.shards) {
    json entry = json::array({shard});
    for (const Manifest::Shard& file : files) entry.push_back(pack(file));
    packed.push_back(std::move(entry));
  }
  for (SharedSplit& split : out) split.shards.resize(job.shards());
  for (const std::string& text : process.all_gather(packed.dump()))
    for (const json& entry : json::parse(text))
      for (size_t i = 0; i < out.size(); ++i) {
        const json& j = entry[i + 1];
        out[i].shards[entry[0].get<size_t>()] = {j[0], j[1], j[2], j[3], j[4], j[5]};
      }
  for (size_t i = 0; i < out.size(); ++i) out[i].totals = share_totals(process, made.totals[i]);
  return out;
}

// Finds the duplicates among all shards and takes them from the sums.
Duplicates take_duplicates(const Process& process, const ShardJob& job, std::vector<SharedSplit>& splits,
                           TokenId end_of_response) {
  std::vector<SplitShards> files;
  uint64_t samples = 0;
  for (size_t i = 0; i < splits.size(); ++i) {
    files.push_back({job.splits[i].folder, job.paths(i)});
    samples += splits[i].totals.samples;
  }
  Duplicates found = write_duplicates(process, files, samples, job.fingerprint);
  uint64_t repeated = 0;
  for (size_t i = 0; i < splits.size(); ++i) {
    if (found.files[i].rows == 0) continue;
    repeated += found.files[i].rows;
    DuplicateRows rows(job.splits[i].folder / found.files[i].file);
    splits[i].totals.subtract(share_totals(
        process, count_duplicates(process, files[i], rows, job.rows_per_shard, end_of_response)));
  }
  for (size_t i = 0; i < splits.size(); ++i) {
    splits[i].totals.counts.drops[static_cast<size_t>(DropReason::duplicate)] += repeated;
    splits[i].totals.counts.other_split = splits.size() == 2 ? splits[1 - i].totals.samples : 0;
  }
  return found;
}

// common: what both splits' manifests say.
Manifest make_manifest(Manifest common, const std::string& split, const SharedSplit& shared,
                       const Manifest::Duplicates& duplicates) {
  const SplitTotals& t = shared.totals;
  common.split = split;
  common.shards = shared.shards;
  common.duplicates = duplicates;
  common.kept = t.samples;
  common.tokens = t.tokens;
  common.loss_tokens = t.loss_tokens;
  common.other_split = t.counts.other_split;
  common.truncated = t.counts.truncated;
  common.drops = t.counts.drops;
  common.lengths = percentiles(t.lengths);
  return common;
}

// Collective: whether every file of a folder that looks whole has the hash that its manifest says. Damaged
// shards are removed.
bool hashes_hold(const Process& process, const ShardJob& job) {
  struct File {
    fs::path path;
    std::string hash;
  };
  std::vector<File> files;
  for (const SplitFolder& split : job.splits) {
    Manifest m = read_manifest(split.folder);
    for (const Manifest::Shard& shard : m.shards) files.push_back({split.folder / shard.file, shard.hash});
    if (!m.duplicates.file.empty()) files.push_back({split.folder / m.duplicates.file, m.duplicates.hash});
  }
  bool held = true;
  {
    SharedCounter claims(process);
    for (uint64_t i = claims.next(); i < files.size(); i = claims.next()) {
      claims.progress();
      if (hash_file(files[i].path) == files[i].hash) continue;
      held = false;
      log::warn("{}: damaged since it was written; it is made anew", files[i].path.string());
      fs::remove(files[i].path);
    }
  }
  return process.all_agree(held);
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

void print_summary(const ShardJob& job, const std::vector<Manifest>& manifests) {
  const Manifest& train = manifests[0];
  std::vector<std::string> drops;
  uint64_t dropped = 0;
  for (size_t i = 0; i < train.drops.size(); ++i) {
    dropped += train.drops[i];
    if (train.drops[i] > 0) drops.push_back(fmt::format("{} {}", train.drops[i], kDropReasonNames[i]));
  }
  log::info("{} rows read, template {}, {} dropped{}", train.rows, train.template_name, dropped,
            drops.empty() ? "" : fmt::format(" ({})", join(drops, ", ")));
  for (size_t i = 0; i < manifests.size(); ++i) print_split(job.splits[i].folder, manifests[i]);
  if (manifests.size() == 2) log::info("  {} of them are also among the training samples", train.overlap);
  if (train.kept == 0) log::warn("no sample was kept; look at the reasons above");
}

int64_t id_or_none(std::optional<TokenId> id) {
  return id ? static_cast<int64_t>(*id) : -1;
}

}  // namespace

void describe(OptionSet& set, PreprocessOptions& options) {
  set.add("preprocess.input", options.input,
          "Parquet or JSON lines (.jsonl, .jsonl.gz, .jsonl.zst): a file, a folder, or a pattern in quotes",
          {.flag = "--input", .value_name = "PATH", .once = true});
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
  set.add("preprocess.min_length", options.min_length,
          "shortest sample, in tokens, after a cut; with --max-length N --on-too-long truncate --min-length "
          "N all "
          "samples have N",
          {.flag = "--min-length", .min = 0, .max = 4294967295.0});
  set.add("preprocess.validation", options.validation,
          "share of rows set apart for validation, chosen by a hash of their text",
          {.flag = "--validation", .min = 0, .max = 0.99});
  set.add("preprocess.rows_per_shard", options.rows_per_shard, "source rows a shard stands for",
          {.flag = "--rows-per-shard", .min = 1, .max = 1048576});
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

  ShardJob job{.splits = {{output, "train"}},
               .tokenizer_hash = tokenizer.file_hash(),
               .settings = settings,
               .fingerprint = fingerprint,
               .rows_per_shard = static_cast<uint64_t>(options.rows_per_shard),
               .rows = sources.rows};
  if (with_validation) job.splits.push_back({validation_folder(output), "validation"});
  if (sources.rows == 0) {
    if (process.is_root()) user_error("{}: no rows in the input; check --input", options.input);
    process.barrier();
  }

  auto look = [&] {
    std::string packed;
    if (process.is_root()) {
      FolderState found = prepare_output(output, with_validation, settings, fingerprint,
                                         options.force ? Overwrite::yes : Overwrite::no);
      packed = json({found.whole, found.finished}).dump();
    }
    json state = json::parse(process.broadcast(packed));
    return FolderState{state[0], state[1]};
  };
  FolderState state = look();
  if (state.whole) {
    if (hashes_hold(process, job)) {
      log::info("{}: already whole, made from this input with these settings, and undamaged; nothing to do",
                output.string());
      return read_manifest(output);
    }
    state = look();
  }
  if (!state.finished.empty())
    log::info("{}: {} finished shards are kept", output.string(), state.finished.size());

  MadeShards made = make_shards(process, tokenizer, options, sources, job, state.finished, times);
  Stopwatch watch;
  std::vector<SharedSplit> splits = share(process, job, made);
  times.wait += watch.seconds();
  watch.reset();
  Duplicates duplicates = take_duplicates(process, job, splits, chat.end());
  times.duplicates = watch.seconds();

  Manifest common;
  common.template_name = chat.name();
  common.fingerprint = fingerprint;
  common.tokenizer = {tokenizer.kind(),       tokenizer.file_hash(),           tokenizer.vocabulary_size(),
                      id_or_none(chat.bos()), id_or_none(find_eos(tokenizer)), chat.end()};
  common.settings = settings;
  for (size_t i = 0; i < sources.files.size(); ++i)
    common.sources.push_back({sources.files[i].name, sources.files[i].bytes, sources.hashes[i]});
  common.rows = sources.rows;
  common.overlap = duplicates.overlap;
  std::vector<Manifest> manifests;
  for (size_t i = 0; i < splits.size(); ++i)
    manifests.push_back(make_manifest(common, job.splits[i].split, splits[i], duplicates.files[i]));
  if (process.is_root()) {
    // The training split's last: a folder that has it is whole.
    for (size_t i = manifests.size(); i-- > 0;)
      write_file_atomic(job.splits[i].folder / "manifest.json", to_json(manifests[i]));
    print_summary(job, manifests);
  }
  process.barrier();  // no rank leaves before the manifest is there
  times.wall = since_start.seconds();
  measure_process(times);
  print_stage_times(process, times);
  return manifests[0];
}

}  // namespace llmft
