#include "llmft/data/source_files.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include <glob.h>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "readers.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

struct Suffix {
  const char* text;
  SourceFormat format;
};
constexpr std::array kSuffixes = {
    Suffix{".parquet", SourceFormat::parquet},       Suffix{".jsonl", SourceFormat::jsonl},
    Suffix{".ndjson", SourceFormat::jsonl},          Suffix{".jsonl.gz", SourceFormat::jsonl_gzip},
    Suffix{".ndjson.gz", SourceFormat::jsonl_gzip},  Suffix{".jsonl.zst", SourceFormat::jsonl_zstd},
    Suffix{".ndjson.zst", SourceFormat::jsonl_zstd},
};
constexpr const char* kWanted = "Parquet (.parquet) or JSON lines (.jsonl, .jsonl.gz, .jsonl.zst) is needed";

const Suffix* suffix_of(const std::string& name) {
  for (const Suffix& suffix : kSuffixes)
    if (name.ends_with(suffix.text)) return &suffix;
  return nullptr;
}

SourceFile source_file(const fs::path& path, std::string name) {
  const Suffix* suffix = suffix_of(path.filename().string());
  if (suffix == nullptr) user_error("{}: unknown kind of file (by its name); {}", path.string(), kWanted);
  if (valid_utf8_prefix(name) != name.size())
    user_error("{}: the name is not UTF-8, in which the manifest lists it; rename the file", path.string());
  std::error_code error;
  uint64_t bytes = fs::file_size(path, error);
  if (error) user_error("{}: cannot read ({})", path.string(), error.message());
  if (::access(path.c_str(), R_OK) != 0)
    user_error("{}: cannot open ({}); check its permissions", path.string(), std::strerror(errno));
  return {path, std::move(name), suffix->format, bytes};
}

// A folder, say. Not a link to what is not there, as an unfinished download leaves it: source_file() refuses
// that.
bool is_other_than_a_file(const fs::path& path) {
  return fs::exists(path) && !fs::is_regular_file(path);
}

void add_folder(const fs::path& folder, std::vector<SourceFile>& files) {
  auto hidden = [](const fs::path& path) { return path.filename().string().starts_with("."); };
  try {
    for (auto it = fs::recursive_directory_iterator(folder, fs::directory_options::follow_directory_symlink);
         it != fs::recursive_directory_iterator(); ++it) {
      if (hidden(it->path())) {
        if (it->is_directory()) it.disable_recursion_pending();
        continue;
      }
      if (suffix_of(it->path().filename().string()) == nullptr || is_other_than_a_file(it->path())) continue;
      files.push_back(source_file(it->path(), it->path().lexically_relative(folder).generic_string()));
    }
  } catch (const fs::filesystem_error& e) {
    user_error("{}: cannot list this folder ({})", folder.string(), e.code().message());
  }
  if (files.empty()) user_error("{}: nothing to read in this folder; {}", folder.string(), kWanted);
}

// The folder part of a pattern that has no wildcard, so that names do not depend on where it lies.
std::string fixed_folder(const std::string& pattern) {
  size_t wildcard = pattern.find_first_of("*?[");
  size_t slash = pattern.rfind('/', wildcard);
  return slash == std::string::npos ? "" : pattern.substr(0, slash + 1);
}

void add_matches(const std::string& pattern, std::vector<SourceFile>& files) {
  glob_t found{};
  int result = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + (result == 0 ? found.gl_pathc : 0));
  ::globfree(&found);
  size_t prefix = fixed_folder(pattern).size();
  for (const std::string& path : paths)
    if (!is_other_than_a_file(path)) files.push_back(source_file(path, path.substr(prefix)));
  if (files.empty()) user_error("{}: no file matches this pattern; {}", pattern, kWanted);
}

}  // namespace

std::vector<SourceFile> find_sources(const std::string& input) {
  std::vector<SourceFile> files;
  std::error_code error;
  fs::file_status status = fs::status(input, error);
  if (status.type() == fs::file_type::directory) {
    add_folder(input, files);
  } else if (fs::exists(status)) {
    files.push_back(source_file(input, fs::path(input).filename().string()));
  } else if (input.find_first_of("*?[") != std::string::npos) {
    add_matches(input, files);
  } else {
    user_error("{}: cannot read the input ({}); check --input", input,
               error ? error.message() : "no such file or folder");
  }
  std::sort(files.begin(), files.end(), [](auto& a, auto& b) { return a.name < b.name; });
  return files;
}

std::vector<SourcePiece> cut_sources(const std::vector<SourceFile>& files) {
  std::vector<SourcePiece> pieces;
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i].format == SourceFormat::parquet) {
      cut_parquet(files[i], i, pieces);
    } else {
      cut_jsonl(files[i], i, pieces);
    }
  }
  return pieces;
}

}  // namespace llmft
