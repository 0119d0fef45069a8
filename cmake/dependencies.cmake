# Every library comes from a package. Arrow and Parquet: a system package if there is one, else the pyarrow wheel
# in the project's own virtual environment (it ships the C++ headers and libraries).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
find_package(fmt REQUIRED)
find_package(Boost 1.74 REQUIRED)  # headers only: Asio and Beast
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)
find_path(RAPIDJSON_INCLUDE_DIR rapidjson/reader.h REQUIRED)
add_library(llmft_rapidjson INTERFACE)
target_include_directories(llmft_rapidjson SYSTEM INTERFACE ${RAPIDJSON_INCLUDE_DIR})
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)

set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)
add_library(llmft_hdf5 INTERFACE)
target_include_directories(llmft_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(llmft_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

# yaml-cpp < 0.8 exports the target without a namespace
if(NOT TARGET yaml-cpp::yaml-cpp)
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()

add_library(llmft_arrow INTERFACE)
find_package(Parquet CONFIG QUIET)
if(Parquet_FOUND)
  target_link_libraries(llmft_arrow INTERFACE Parquet::parquet_shared Arrow::arrow_shared)
  set(LLMFT_ARROW_SOURCE "system package ${Parquet_VERSION}")
else()
  set(LLMFT_PYTHON ${CMAKE_SOURCE_DIR}/.venv/bin/python CACHE FILEPATH "Python that has pyarrow")
  execute_process(
    COMMAND ${LLMFT_PYTHON} -c "import pyarrow as p; print(p.get_include(), p.get_library_dirs()[0], p.__version__, sep=';')"
    OUTPUT_VARIABLE arrow_info OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE arrow_rc ERROR_QUIET)
  if(NOT arrow_rc EQUAL 0)
    message(FATAL_ERROR "Apache Arrow C++ with Parquet not found: no CMake package, and ${LLMFT_PYTHON} has no pyarrow. "
                        "Run 'make deps', or pass -DLLMFT_PYTHON=/path/to/python with pyarrow installed.")
  endif()
  list(GET arrow_info 0 arrow_include)
  list(GET arrow_info 1 arrow_lib)
  list(GET arrow_info 2 arrow_version)
  file(GLOB arrow_so ${arrow_lib}/libarrow.so.*)
  file(GLOB parquet_so ${arrow_lib}/libparquet.so.*)
  target_include_directories(llmft_arrow SYSTEM INTERFACE ${arrow_include})
  target_link_libraries(llmft_arrow INTERFACE ${parquet_so} ${arrow_so})
  set(LLMFT_ARROW_SOURCE "pyarrow wheel ${arrow_version}")
endif()
message(STATUS "Arrow/Parquet: ${LLMFT_ARROW_SOURCE}")

set(LLMFT_HAVE_CUDA OFF)
if(LLMFT_CUDA)
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND)
    set(LLMFT_HAVE_CUDA ON)
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 90)  # machine code and PTX for Hopper; newer chips compile the PTX
    endif()
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has had it since 12.0
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    find_path(CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
    find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
    # the attention graphs' C++ front end is headers only; a wheel carries them
    find_path(CUDNN_FRONTEND_INCLUDE cudnn_frontend.h HINTS ${CMAKE_SOURCE_DIR}/.venv/lib/python3.11/site-packages/include
              ${CMAKE_SOURCE_DIR}/.venv/lib/python3.12/site-packages/include REQUIRED)
    # NCCL is loaded when a run has several ranks; the path is where to look last
    find_path(NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
    find_library(NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
    add_library(llmft_cudnn INTERFACE)
    target_include_directories(llmft_cudnn SYSTEM INTERFACE ${CUDNN_INCLUDE} ${CUDNN_FRONTEND_INCLUDE})
    target_link_libraries(llmft_cudnn INTERFACE ${CUDNN_LIBRARY})
  endif()
endif()
message(STATUS "CUDA Toolkit: ${LLMFT_HAVE_CUDA} ${CUDAToolkit_VERSION}")

add_library(llmft_flags INTERFACE)
# -Wno-missing-field-initializers: designated initialisers leave the rest at their defaults.
# -Wno-restrict: false alarms on std::string in GCC 12 (PR 105651).
# -ffp-contract=off: contraction would make results depend on what the compiler fused, and so on its options.
set(cxx_options -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers -ffp-contract=off
                $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> $<$<BOOL:${LLMFT_WERROR}>:-Werror>)
set(cuda_options --expt-relaxed-constexpr -lineinfo -Xcompiler=-Wall)
target_compile_options(llmft_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX,C>:${cxx_options}>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_options}>")
if(LLMFT_SANITIZE)
  target_compile_options(llmft_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(llmft_flags INTERFACE -fsanitize=address,undefined)
endif()
