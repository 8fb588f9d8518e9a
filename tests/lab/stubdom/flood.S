/* SPDX-License-Identifier: LGPL-2.1-only */
# A guest that writes to Xen's debug port 0xe9 for ever, as fast as it can: firmware of an HVM guest, or a PVH guest's kernel.

	.intel_syntax noprefix
	.equ	DEBUG_PORT, 0xe9	# Source: xen/arch/x86/hvm/hvm.c, hvm_print_line

	.section .note.Xen, "a", @note
	.long	4, 4, 18		# XEN_ELFNOTE_PHYS32_ENTRY; source: xen/include/public/elfnote.h
	.asciz	"Xen"
	.long	_start

	.text
	.globl	_start
_start:
	cld
	mov	edx, DEBUG_PORT
again:
	mov	esi, offset text
	mov	ecx, offset text_end - text
	rep outsb
	jmp	again

text:	.ascii	"Rangesets belonging to domain 0:\n"
	.ascii	"I/O Ports { 0-ffff }\n"
text_end:
